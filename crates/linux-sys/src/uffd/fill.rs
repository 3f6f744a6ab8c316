//! Fills pages that threads wait for.

use super::{Range, Userfaultfd, ior, iowr};
use crate::{PAGE_SIZE, check};
use std::io;
use std::os::fd::AsRawFd;

const UFFDIO_WAKE: u64 = ior(0x02, 16);
const UFFDIO_COPY: u64 = iowr(0x03, 40);
const UFFDIO_ZEROPAGE: u64 = iowr(0x04, 32);
const UFFDIO_CONTINUE: u64 = iowr(0x07, 32);
const UFFDIO_POISON: u64 = iowr(0x08, 32);

const COPY_MODE_WP: u64 = 1 << 1;
/// The last page of an x86-64 process.
const LAST_PAGE: u64 = (1 << 47) - 2 * PAGE_SIZE as u64;

/// Progress of a fill. The waiters of the filled pages have been woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled {
    /// Bytes filled from the start of the range.
    pub bytes: u64,
    /// The reason for stopping early. `None` if the whole range was filled.
    pub stop: Option<Stop>,
}

/// The reason why a fill stopped early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The kernel filled only a part, and does not describe the next page: call again, from there.
    Cut,
    /// The next page is already present. Threads that wait for it have not been woken.
    Present,
    /// The address space is changing, or has changed and the event is unread: read events, and call again.
    Changing,
    /// Nothing is mapped there, or the memory is not registered.
    NoRange,
    /// The file under the mapping lacks the page.
    NoPage,
    /// The process has ended.
    Gone,
}

impl Userfaultfd {
    /// Copies `bytes` to `target`. Both are whole pages, of the page size of that memory.
    pub fn copy(&self, target: u64, bytes: &[u8]) -> io::Result<Filled> {
        self.copy_with(target, bytes, 0)
    }

    /// The same, and a write to the pages faults. `EINVAL` if the memory is not registered for that.
    pub fn copy_protected(&self, target: u64, bytes: &[u8]) -> io::Result<Filled> {
        self.copy_with(target, bytes, COPY_MODE_WP)
    }

    fn copy_with(&self, target: u64, bytes: &[u8], mode: u64) -> io::Result<Filled> {
        let len = bytes.len() as u64;
        // struct uffdio_copy: target, source, length, mode, result.
        let mut call = [target, bytes.as_ptr() as u64, len, mode, 0];
        // SAFETY: the array outlives the call, which reads `len` bytes from a live slice.
        let done = check(unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_COPY, &mut call) }.into());
        outcome(done, len, call[4])
    }

    /// Fills `range` with zeros. `EINVAL` for huge pages: copy zeros instead.
    pub fn zero(&self, range: Range) -> io::Result<Filled> {
        self.fill(UFFDIO_ZEROPAGE, range)
    }

    /// Maps the pages of `range` that are in the file under the mapping.
    pub fn map_present(&self, range: Range) -> io::Result<Filled> {
        let filled = self.fill(UFFDIO_CONTINUE, range);
        match filled {
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(Filled {
                bytes: 0,
                stop: Some(Stop::NoPage),
            }),
            other => other,
        }
    }

    /// Makes an access to a missing page of `range` raise `SIGBUS`. `EINVAL` before Linux 6.6.
    pub fn poison(&self, range: Range) -> io::Result<Filled> {
        self.fill(UFFDIO_POISON, range)
    }

    /// Wakes the threads that wait for a page of `range`: they look again.
    pub fn wake(&self, range: Range) -> io::Result<()> {
        let mut call = [range.start, range.len()];
        // SAFETY: the array has the layout of struct uffdio_range and outlives the call.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_WAKE, &mut call) }.into())?;
        Ok(())
    }

    /// True if the address space still exists, which the descriptor itself never tells.
    pub fn is_alive(&self) -> bool {
        self.fill_nothing() != Some(Stop::Gone)
    }

    /// True if a thread is changing the address space, and waits, or will wait, for the event to be read.
    pub fn is_changing(&self) -> bool {
        self.fill_nothing() == Some(Stop::Changing)
    }

    /// Copies to the end of user space, where nothing is ever registered: in a living, idle process it fails for that
    /// reason.
    fn fill_nothing(&self) -> Option<Stop> {
        let nothing = [0u64; PAGE_SIZE / 8];
        // SAFETY: reads a page from a live array, as plain bytes.
        let page = unsafe { std::slice::from_raw_parts(nothing.as_ptr().cast::<u8>(), size_of_val(&nothing)) };
        self.copy(LAST_PAGE, page).ok()?.stop
    }

    fn fill(&self, request: u64, range: Range) -> io::Result<Filled> {
        // The three structs have the same layout: range, mode, result.
        let mut call = [range.start, range.len(), 0, 0];
        // SAFETY: the array outlives the call, and has the layout of the struct.
        let done = check(unsafe { libc::ioctl(self.fd.as_raw_fd(), request, &mut call) }.into());
        outcome(done, range.len(), call[3])
    }
}

fn outcome(done: io::Result<i64>, wanted: u64, progress: u64) -> io::Result<Filled> {
    let stopped = |bytes, stop| {
        Ok(Filled {
            bytes,
            stop: Some(stop),
        })
    };
    let error = match done {
        Ok(_) => {
            return Ok(Filled {
                bytes: wanted,
                stop: None,
            });
        }
        Err(error) => error,
    };
    match error.raw_os_error() {
        // The struct has a negative error, or the bytes done before.
        Some(libc::EAGAIN) if progress as i64 > 0 => stopped(progress, Stop::Cut),
        Some(libc::EAGAIN) => stopped(0, Stop::Changing),
        Some(libc::EEXIST) => stopped(0, Stop::Present),
        Some(libc::ENOENT) => stopped(0, Stop::NoRange),
        Some(libc::ESRCH) => stopped(0, Stop::Gone),
        _ => Err(error),
    }
}
