//! What can go wrong, as it is told to the controller.

use forkd_capture::CaptureError;
use forkd_protocol::{Fault, FaultCode};
use std::io;

/// A failure with the code that the controller decides by.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct PagerError {
    pub code: FaultCode,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, PagerError>;

impl PagerError {
    pub fn new(code: FaultCode, message: impl Into<String>) -> PagerError {
        PagerError {
            code,
            message: message.into(),
        }
    }
}

impl From<PagerError> for Fault {
    fn from(error: PagerError) -> Fault {
        Fault {
            code: error.code,
            message: error.message,
        }
    }
}

/// Names the step in which an OS call failed, and sorts the error by what the caller can do about it.
pub trait Step<T> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| PagerError::new(code_of(error.raw_os_error()), format!("{}: {error}", what())))
    }
}

impl From<CaptureError> for PagerError {
    fn from(error: CaptureError) -> PagerError {
        let code = match &error {
            CaptureError::Cancelled => FaultCode::Cancelled,
            CaptureError::Os { .. } => code_of(error.raw_os_error()),
        };
        PagerError::new(code, error.to_string())
    }
}

fn code_of(os_error: Option<i32>) -> FaultCode {
    match os_error {
        Some(libc::ENOSPC | libc::EDQUOT) => FaultCode::DiskFull,
        Some(libc::ENOMEM) => FaultCode::OutOfMemory,
        Some(libc::ESRCH) => FaultCode::VmGone,
        _ => FaultCode::Io,
    }
}
