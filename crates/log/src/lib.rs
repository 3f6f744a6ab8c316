//! The log of a daemon, and the plain text that it consists of.

mod log;
mod text;

pub use log::{line, to_file, to_stderr};
pub use text::plain;

/// The sample in the README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
