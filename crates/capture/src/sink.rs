//! The destination of captured pages.

use crate::set::Run;
use std::io;

/// Receives the pages of a capture, each once, in any order, from several threads at a time.
pub trait Sink: Send + Sync {
    /// Receives the pages of `run` with the content `bytes`. The source does not wait for this call. An error ends the capture.
    fn put(&self, run: Run, bytes: &[u8]) -> io::Result<()>;
}
