//! Errors of the disk server, as reported to the controller.

use forkd_log::plain;
use forkd_protocol::{Fault, FaultCode};
use std::io;

/// A failure with a code that tells the controller how to react.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct DiskError {
    pub code: FaultCode,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, DiskError>;

impl DiskError {
    /// Creates a failure. The message may quote a VMM, a file or a caller, so it is reduced to one plain line.
    pub fn new(code: FaultCode, message: impl AsRef<str>) -> DiskError {
        DiskError {
            code,
            message: plain(message.as_ref()),
        }
    }

    pub fn bad_request(message: impl AsRef<str>) -> DiskError {
        DiskError::new(FaultCode::BadRequest, message)
    }

    pub fn corrupt(message: impl AsRef<str>) -> DiskError {
        DiskError::new(FaultCode::CorruptLayer, message)
    }
}

impl From<DiskError> for Fault {
    fn from(error: DiskError) -> Fault {
        Fault {
            code: error.code,
            message: error.message,
        }
    }
}

/// Names the step in which an OS call failed, and classifies the error by what the caller can do about it.
pub trait Step<T> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let code = match error.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => FaultCode::DiskFull,
                Some(libc::ENOMEM) => FaultCode::OutOfMemory,
                _ => FaultCode::Io,
            };
            DiskError::new(code, format!("{}: {error}", what()))
        })
    }
}
