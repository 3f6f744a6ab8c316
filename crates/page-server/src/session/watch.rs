//! The state of a watch over writes to a fork's memory.

use forkd_capture::FaultQueue;
use std::sync::Arc;

/// The state of a watch. Threads that fill pages or read events hold its lock for reading; a change needs it for writing.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// The queue that is told of writes and of freed memory. `None`: nobody watches.
    pub queue: Option<Arc<FaultQueue>>,
    /// Pages are filled write-protected, so that a write to them faults.
    pub protects: bool,
    /// The fork was watched before, so a late write fault belongs to no capture.
    pub was_watched: bool,
    /// The VMM has been left to itself.
    pub is_over: bool,
}
