//! Errors of the pager, as reported to the controller.

use forkd_capture::CaptureError;
use forkd_layers::{LayerError, LayerErrorKind};
use forkd_log::plain;
use forkd_page_server::RefreshError;
use forkd_protocol::{Fault, FaultCode};
use std::io;

/// A failure with a code that tells the controller how to react.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct PagerError {
    pub code: FaultCode,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, PagerError>;

impl PagerError {
    /// Creates a failure. The message may quote a VMM, a file or a caller, so it is reduced to one plain line.
    pub fn new(code: FaultCode, message: impl AsRef<str>) -> PagerError {
        PagerError {
            code,
            message: plain(message.as_ref()),
        }
    }

    /// The error for a VM that has ended, or whose VMM does not answer.
    pub fn gone(message: impl AsRef<str>) -> PagerError {
        PagerError::new(FaultCode::VmGone, message)
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

/// Names the step in which an OS call failed, and classifies the error by what the caller can do about it.
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

impl From<LayerError> for PagerError {
    fn from(error: LayerError) -> PagerError {
        let code = match error.kind {
            LayerErrorKind::Invalid => FaultCode::BadRequest,
            LayerErrorKind::UnknownLayer => FaultCode::UnknownLayer,
            LayerErrorKind::Damaged => FaultCode::CorruptLayer,
            LayerErrorKind::Cancelled => FaultCode::Cancelled,
            LayerErrorKind::DiskFull => FaultCode::DiskFull,
            LayerErrorKind::OutOfMemory => FaultCode::OutOfMemory,
            LayerErrorKind::Unsupported => FaultCode::Unsupported,
            LayerErrorKind::Io => FaultCode::Io,
            LayerErrorKind::Internal => FaultCode::Internal,
        };
        PagerError::new(code, error.message)
    }
}

impl From<RefreshError> for PagerError {
    fn from(error: RefreshError) -> PagerError {
        let code = match &error {
            RefreshError::Invalid(_) => FaultCode::BadRequest,
            RefreshError::Source(_) => FaultCode::Io,
            RefreshError::Random(error) => code_of(error.raw_os_error()),
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
