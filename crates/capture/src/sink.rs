//! Where captured pages go.

use crate::set::Run;
use std::io;

/// Takes the pages of a capture, each once, in any order, from several threads at a time.
pub trait Sink: Send + Sync {
    /// Takes the pages of `run`, whose content is `bytes`. The source does not wait for it. An error ends the capture.
    fn put(&self, run: Run, bytes: &[u8]) -> io::Result<()>;
}
