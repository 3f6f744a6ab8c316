//! Failures.

use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// A failure as it crosses the socket.
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct Fault {
    pub code: FaultCode,
    /// The sentence for the caller, with the caller's own values.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "wire.ts")]
pub enum FaultCode {
    BadRequest,
    UnknownSandbox,
    UnknownLayer,
    /// A layer's bytes do not have the digest that names it, or it is cut short.
    CorruptLayer,
    /// A branch of this sandbox is under way.
    Busy,
    /// The VM ended, or its monitor does not answer.
    VmGone,
    Cancelled,
    DiskFull,
    OutOfMemory,
    /// The host cannot do it (no userfaultfd, no write-protection of shared memory).
    Unsupported,
    Io,
    /// The audit of a branch found pages or blocks that are not as they were in the pause.
    AuditFailed,
    /// A fault of the pager's own.
    Internal,
}
