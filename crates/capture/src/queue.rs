//! Write faults that another reader of the userfaultfd passes on: a page server reads all that the userfaultfd reports.

use forkd_linux_sys::fds::EventFd;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard};

/// Events that were read and not handled yet. A push never waits.
#[derive(Debug)]
pub struct FaultQueue {
    queued: Mutex<Queued>,
    /// Signalled while there are write faults.
    waiting: EventFd,
}

#[derive(Debug, Default)]
struct Queued {
    writes: VecDeque<u64>,
    removed: Vec<Range<u64>>,
}

impl FaultQueue {
    pub fn new() -> io::Result<FaultQueue> {
        Ok(FaultQueue {
            queued: Mutex::default(),
            waiting: EventFd::new()?,
        })
    }

    /// Adds the addresses of protected pages that threads wait to write to.
    pub fn push_writes(&self, addresses: &[u64]) {
        let mut queued = self.lock();
        queued.writes.extend(addresses);
        self.waiting.signal();
    }

    /// Adds pages that the source has freed. They now read as zeros.
    pub fn push_removed(&self, pages: Range<u64>) {
        self.lock().removed.push(pages);
    }

    pub(crate) fn read_writes(&self, faults: &mut Vec<u64>, limit: usize) {
        let mut queued = self.lock();
        let count = queued.writes.len().min(limit);
        faults.extend(queued.writes.drain(..count));
        if queued.writes.is_empty() {
            self.waiting.clear();
        }
    }

    pub(crate) fn take_removed(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut self.lock().removed)
    }

    fn lock(&self) -> MutexGuard<'_, Queued> {
        self.queued.lock().expect("no panic while held")
    }
}

impl AsFd for FaultQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waiting.as_fd()
    }
}
