//! Errors of the API.

use std::io;

use hyper::StatusCode;
use serde::Serialize;
use ts_rs::TS;

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub status: StatusCode,
    pub code: ErrorCode,
    pub message: String,
}

/// The code of a failure. Codes are stable: programs may rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export_to = "agent-wire.ts")]
pub enum ErrorCode {
    BadCwd,
    BadIdentity,
    BadPath,
    BadRequest,
    BadSignal,
    BodyBroken,
    BodyTooLarge,
    DirectoryNotEmpty,
    FreezerUnavailable,
    Internal,
    InterpreterBusy,
    InterpreterFailed,
    InterpreterNotFound,
    IoError,
    IsADirectory,
    NoSpace,
    NoSuchRoute,
    NotADirectory,
    NotAFile,
    NotATerminal,
    NotFound,
    NotRunning,
    PermissionDenied,
    PortUnreachable,
    ReadOnly,
    StdinClosed,
    TooManyCommands,
    TooManyConnections,
    TooManyEntries,
    TooManyWatches,
    UnknownCommand,
    UnknownLanguage,
    UnknownUser,
}

impl ApiError {
    pub fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError {
            status,
            code,
            message: message.into(),
        }
    }

    pub fn bad_request(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub fn not_found(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, code, message)
    }

    /// An error of the system, met while doing `what`.
    pub fn io(what: impl std::fmt::Display, error: &io::Error) -> ApiError {
        use io::ErrorKind::*;
        let (status, code) = match error.kind() {
            NotFound => (StatusCode::NOT_FOUND, ErrorCode::NotFound),
            PermissionDenied => (StatusCode::FORBIDDEN, ErrorCode::PermissionDenied),
            CrossesDevices => (StatusCode::BAD_REQUEST, ErrorCode::BadPath),
            // A symbolic link that leads to itself.
            _ if error.raw_os_error() == Some(libc::ELOOP) => (StatusCode::BAD_REQUEST, ErrorCode::BadPath),
            // Only directories are made in places that may be taken: a file stands there.
            NotADirectory | AlreadyExists => (StatusCode::BAD_REQUEST, ErrorCode::NotADirectory),
            IsADirectory => (StatusCode::BAD_REQUEST, ErrorCode::IsADirectory),
            DirectoryNotEmpty => (StatusCode::CONFLICT, ErrorCode::DirectoryNotEmpty),
            ReadOnlyFilesystem => (StatusCode::FORBIDDEN, ErrorCode::ReadOnly),
            StorageFull | QuotaExceeded | FileTooLarge => (StatusCode::INSUFFICIENT_STORAGE, ErrorCode::NoSpace),
            InvalidFilename | InvalidInput => (StatusCode::BAD_REQUEST, ErrorCode::BadPath),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::IoError),
        };
        ApiError::new(status, code, format!("{what}: {error}"))
    }
}
