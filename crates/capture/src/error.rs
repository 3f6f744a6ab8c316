//! Errors of a capture.

use std::io;
use std::sync::Arc;

/// The reason why a capture failed. Its source keeps running, unprotected.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CaptureError {
    /// The caller cancelled the capture.
    #[error("the capture was given up while memory was copied")]
    Cancelled,
    /// A system call failed, or the sink did.
    #[error("{step}: {cause}")]
    Os { step: String, cause: Arc<io::Error> },
}

pub type Result<T> = std::result::Result<T, CaptureError>;

impl CaptureError {
    /// The system error number, if any.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            CaptureError::Cancelled => None,
            CaptureError::Os { cause, .. } => cause.raw_os_error(),
        }
    }
}

/// Names the step in which a call failed.
pub(crate) trait Step<T> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| CaptureError::Os {
            step: what(),
            cause: Arc::new(error),
        })
    }
}
