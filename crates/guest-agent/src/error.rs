//! Errors of the API.

use std::io;

use hyper::StatusCode;

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub status: StatusCode,
    /// Stable: programs may rely on it.
    pub code: &'static str,
    pub message: String,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError {
            status,
            code,
            message: message.into(),
        }
    }

    pub fn bad_request(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub fn not_found(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, code, message)
    }

    /// An error of the system, met while doing `what`.
    pub fn io(what: impl std::fmt::Display, error: &io::Error) -> ApiError {
        use io::ErrorKind::*;
        let (status, code) = match error.kind() {
            NotFound => (StatusCode::NOT_FOUND, "not_found"),
            PermissionDenied => (StatusCode::FORBIDDEN, "permission_denied"),
            CrossesDevices => (StatusCode::BAD_REQUEST, "bad_path"),
            // A symbolic link that leads to itself.
            _ if error.raw_os_error() == Some(libc::ELOOP) => (StatusCode::BAD_REQUEST, "bad_path"),
            // Only directories are made in places that may be taken: a file stands there.
            NotADirectory | AlreadyExists => (StatusCode::BAD_REQUEST, "not_a_directory"),
            IsADirectory => (StatusCode::BAD_REQUEST, "is_a_directory"),
            DirectoryNotEmpty => (StatusCode::CONFLICT, "directory_not_empty"),
            ReadOnlyFilesystem => (StatusCode::FORBIDDEN, "read_only"),
            StorageFull | QuotaExceeded | FileTooLarge => (StatusCode::INSUFFICIENT_STORAGE, "no_space"),
            InvalidFilename | InvalidInput => (StatusCode::BAD_REQUEST, "bad_path"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "io_error"),
        };
        ApiError::new(status, code, format!("{what}: {error}"))
    }
}
