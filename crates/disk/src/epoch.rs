//! The number that tells a disk that a branch of its VM was taken.
//!
//! A branch adds one to it while the VM is stopped. That is all that a disk costs inside the pause. A disk looks at the number before
//! each write, and freezes its layer first if it has changed. The upper half of the number is another for each server, so that an
//! epoch of an earlier server is never taken for one of this.

use crate::error::{Result, Step};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::{self, Mapping};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

const SERVER_SHIFT: u32 = 32;

#[derive(Debug)]
pub struct Epoch {
    file: File,
    page: Mapping,
}

impl Epoch {
    pub fn new(first: u64) -> Result<Epoch> {
        let making = || "making the page of a disk's epoch".to_owned();
        let file = memfd::create(c"forkd-disk-epoch", PAGE_SIZE as u64).step(making)?;
        let page = Mapping::read_write(&file, PAGE_SIZE).step(making)?;
        page.word(0).store(first, Ordering::Release);
        Ok(Epoch { file, page })
    }

    pub fn get(&self) -> u64 {
        self.page.word(0).load(Ordering::Acquire)
    }

    /// The path by which other processes of this user can map the page.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// True if this server has seen `epoch`.
    pub fn has_been(&self, epoch: u64) -> bool {
        let now = self.get();
        epoch >> SERVER_SHIFT == now >> SERVER_SHIFT && epoch <= now
    }

    /// Moves on, as a branch does. Returns the new epoch.
    pub fn advance(&self) -> u64 {
        self.page.word(0).fetch_add(1, Ordering::AcqRel) + 1
    }
}

/// The first epoch of a server after one that has reached `last`.
pub fn after_restart(last: u64) -> u64 {
    ((last >> SERVER_SHIFT) + 1) << SERVER_SHIFT
}
