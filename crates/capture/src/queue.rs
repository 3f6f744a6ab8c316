//! Write faults that somebody else reads of the kernel: who serves the memory's pages, too, reads all that its userfaultfd reports.

use forkd_linux_sys::fds::Bell;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard};

/// What has been read and not been dealt with. Whoever tells of it waits for nothing.
#[derive(Debug)]
pub struct FaultQueue {
    queued: Mutex<Queued>,
    /// Rung while there are faults.
    bell: Bell,
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
            bell: Bell::new()?,
        })
    }

    /// Threads wait to write to protected pages, at these addresses.
    pub fn push_writes(&self, addresses: &[u64]) {
        let mut queued = self.lock();
        queued.writes.extend(addresses);
        self.bell.ring();
    }

    /// Pages of the source are zeros from now on.
    pub fn push_removed(&self, pages: Range<u64>) {
        self.lock().removed.push(pages);
    }

    pub(crate) fn read_writes(&self, faults: &mut Vec<u64>, limit: usize) {
        let mut queued = self.lock();
        let count = queued.writes.len().min(limit);
        faults.extend(queued.writes.drain(..count));
        if queued.writes.is_empty() {
            self.bell.hush();
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
        self.bell.as_fd()
    }
}
