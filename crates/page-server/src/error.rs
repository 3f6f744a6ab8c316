//! What can go wrong.

use crate::handshake::HandshakeError;
use std::io;
use std::sync::Arc;

/// Why a fork is not served, or no longer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PageError {
    #[error("this kernel has no userfaultfd: map the template privately instead")]
    Unsupported,
    #[error("{limit} forks are served already")]
    Full { limit: usize },
    #[error("the server is draining: it takes no new forks")]
    Draining,
    #[error("the handshake failed: {0}")]
    Handshake(#[from] HandshakeError),
    #[error("the memory at {address:#x} maps a file that is not the template, or not that part of it")]
    OtherFile { address: u64 },
    #[error("a fault at {address:#x}, which is in none of the regions of the handshake")]
    OutsideRegions { address: u64 },
    #[error("the userfaultfd reported {what}, which a virtual machine's memory does not do")]
    Unexpected { what: String },
    #[error("page {page} of the template cannot be had, and a fault cannot be refused on this kernel: {reason}")]
    NoContent { page: u64, reason: String },
    #[error("writes to the fork's memory cannot be watched: {what}")]
    Unwatchable { what: String },
    #[error(transparent)]
    Capture(forkd_capture::CaptureError),
    #[error("its owner gave the fork up while it still needed pages")]
    GivenUp,
    /// A call of the operating system failed.
    #[error("{step}: {cause}")]
    Os { step: &'static str, cause: Arc<io::Error> },
}

pub type Result<T> = std::result::Result<T, PageError>;

/// Names the step in which a call failed.
pub(crate) trait Step<T> {
    fn step(self, what: &'static str) -> Result<T>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: &'static str) -> Result<T> {
        self.map_err(|error| PageError::Os {
            step,
            cause: Arc::new(error),
        })
    }
}
