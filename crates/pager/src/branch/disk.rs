//! The instant of a VM's disk.
//!
//! The disk's server shares a word with the pager, for each disk: the number of the disk's epoch. The server looks at it before
//! each write, and freezes the disk first if the number has changed. So a pause costs one store, however much was written.

use crate::error::{PagerError, Result, Step};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::Mapping;
use forkd_protocol::FaultCode;
use std::fs::OpenOptions;
use std::sync::atomic::Ordering;

/// The word of a disk.
#[derive(Debug)]
pub struct DiskEpoch {
    page: Mapping,
}

impl DiskEpoch {
    /// Maps the page that the disk's server offers at `path`.
    pub fn open(path: &str) -> Result<DiskEpoch> {
        let describe = || format!("opening the epoch of a disk at {path}");
        let file = OpenOptions::new().read(true).write(true).open(path).step(describe)?;
        let bytes = file.metadata().step(describe)?.len();
        if bytes != PAGE_SIZE as u64 {
            let message = format!("the epoch of a disk at {path} has {bytes} bytes instead of a page");
            return Err(PagerError::new(FaultCode::BadRequest, message));
        }
        let page = Mapping::read_write(&file, PAGE_SIZE).step(describe)?;
        Ok(DiskEpoch { page })
    }

    /// Begins the next epoch, and returns its number. The VM is stopped: all of its writes have been answered.
    pub fn advance(&self) -> u64 {
        self.page.word(0).fetch_add(1, Ordering::AcqRel) + 1
    }
}
