//! Errors of layers.

use std::io;

/// A failure, with the kind that callers decide by.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct LayerError {
    pub kind: LayerErrorKind,
    /// The sentence for the caller, with the caller's own values. Part of a file may be quoted in it.
    pub message: String,
}

/// The class of a failure, by what a caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerErrorKind {
    /// The caller's values cannot be right.
    Invalid,
    /// No layer has this name.
    UnknownLayer,
    /// A layer's bytes do not have the digest that names it, or it is cut short.
    Damaged,
    /// The caller gave the work up.
    Cancelled,
    DiskFull,
    OutOfMemory,
    /// The host cannot do it.
    Unsupported,
    Io,
    /// A fault of this crate or of its caller.
    Internal,
}

pub type Result<T> = std::result::Result<T, LayerError>;

impl LayerError {
    pub fn new(kind: LayerErrorKind, message: impl Into<String>) -> LayerError {
        LayerError {
            kind,
            message: message.into(),
        }
    }
}

/// Names the step in which a call of the operating system failed.
pub(crate) trait Step<T> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let kind = match error.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => LayerErrorKind::DiskFull,
                Some(libc::ENOMEM) => LayerErrorKind::OutOfMemory,
                _ => LayerErrorKind::Io,
            };
            LayerError::new(kind, format!("{}: {error}", what()))
        })
    }
}
