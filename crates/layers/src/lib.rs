//! Layers: immutable sets of pages, each in a sealed memfd, which many processes map at once.
//!
//! - A [`Layer`] holds some pages of a range of `length` bytes, such as the memory of a process or a disk. A base layer is the
//!   bottom of a stack; a page that it does not hold is zeros. Any other layer holds what differs from the layers below it.
//! - A [`Stack`] is layers, bottom first. Of each page the topmost layer that holds it is seen. [`Stack::plan`] says which pieces
//!   of which layer to map where.
//! - A [`LayerBuilder`] fills a new layer over a stack, from any number of threads, and keeps only the pages that differ.
//! - [`Blobs`] is the store on disk: files named by the SHA-256 of their bytes, which are checked before they are used. The layer
//!   file's format is described in `src/file.rs`.
//! - [`Layers`] holds each layer and each stack once. Layers that nobody uses are dropped by a budget and read again when they are
//!   needed. A stack that is mapped again and again gets a merged view, which has fewer pieces.
//!
//! All pages have [`PAGE_SIZE`] bytes. Nothing here knows what the pages are of, or who writes them.

mod blob;
mod blobs;
mod builder;
mod error;
mod file;
pub mod flat_file;
pub mod host_memory;
mod layer;
mod layers;
mod merged;
mod shelf;
mod signal;
mod stack;
mod views;

pub use blob::Blob;
pub use blobs::Blobs;
pub use builder::LayerBuilder;
pub use error::{LayerError, LayerErrorKind, Result};
pub use file::{digest_of, read as read_layer};
pub use forkd_linux_sys::PAGE_SIZE;
pub use layer::{Durability, Extent, Layer};
pub use layers::{HeldLayer, LayerName, Layers, MappedStack, MemoryUse};
pub use signal::InUse;
pub use stack::{Piece, Stack};

/// The sample in the README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
