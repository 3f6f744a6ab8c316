//! The name of a file in the store.

/// A file of the store, by digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// The file's size in bytes.
    pub size: u64,
}
