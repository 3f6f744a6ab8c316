//! Giving pages to those that wait for them.

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

/// How far a call came. What was filled has been woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled {
    /// From the start of the range.
    pub bytes: u64,
    /// Why it went no further; none when it did all.
    pub stop: Option<Stop>,
}

/// Why a call did not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It filled some pages, and the kernel does not say what is with the next: call again, from there.
    Cut,
    /// The next page is there already. Whoever waits for it has not been woken.
    Present,
    /// The address space is changing, or has changed and nobody has read of it: read events, and call again.
    Changing,
    /// Nothing is mapped there, or nothing that is registered.
    NoRange,
    /// The file under the mapping does not have the page.
    NoPage,
    /// The process has ended.
    Gone,
}

impl Userfaultfd {
    /// Copies `bytes` to `target`. Both are whole pages, of the size that the memory there has.
    pub fn copy(&self, target: u64, bytes: &[u8]) -> io::Result<Filled> {
        self.copy_with(target, bytes, 0)
    }

    /// The same, and a write to the pages faults. `EINVAL` where the memory is not registered for that.
    pub fn copy_protected(&self, target: u64, bytes: &[u8]) -> io::Result<Filled> {
        self.copy_with(target, bytes, COPY_MODE_WP)
    }

    fn copy_with(&self, target: u64, bytes: &[u8], mode: u64) -> io::Result<Filled> {
        let len = bytes.len() as u64;
        // struct uffdio_copy: where to, where from, how much, mode, and what came of it.
        let mut call = [target, bytes.as_ptr() as u64, len, mode, 0];
        // SAFETY: the array outlives the call, which reads `len` bytes from a live slice.
        let done = check(unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_COPY, &mut call) }.into());
        outcome(done, len, call[4])
    }

    /// Makes `range` zeros. `EINVAL` where the memory consists of huge pages: zeros must be copied there.
    pub fn zero(&self, range: Range) -> io::Result<Filled> {
        self.fill(UFFDIO_ZEROPAGE, range)
    }

    /// Maps the pages of `range` that the file under the mapping has.
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

    /// Whoever touches a page of `range` that is not there gets `SIGBUS`. `EINVAL` before Linux 6.6.
    pub fn poison(&self, range: Range) -> io::Result<Filled> {
        self.fill(UFFDIO_POISON, range)
    }

    /// Lets those go on that wait for a page of `range`: they look again.
    pub fn wake(&self, range: Range) -> io::Result<()> {
        let mut call = [range.start, range.len()];
        // SAFETY: the array has the layout of struct uffdio_range and outlives the call.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_WAKE, &mut call) }.into())?;
        Ok(())
    }

    /// Whether the address space is still there, which the descriptor itself never tells.
    pub fn is_alive(&self) -> bool {
        self.fill_nothing() != Some(Stop::Gone)
    }

    /// Whether somebody is changing the address space, and waits, or will wait, for that to be read.
    pub fn is_changing(&self) -> bool {
        self.fill_nothing() == Some(Stop::Changing)
    }

    /// At the end of user space nothing is ever registered: in a process that lives and does nothing it fails for that
    /// reason.
    fn fill_nothing(&self) -> Option<Stop> {
        let nothing = [0u64; PAGE_SIZE / 8];
        // SAFETY: reads a page from a live array, as plain bytes.
        let page = unsafe { std::slice::from_raw_parts(nothing.as_ptr().cast::<u8>(), size_of_val(&nothing)) };
        self.copy(LAST_PAGE, page).ok()?.stop
    }

    fn fill(&self, request: u64, range: Range) -> io::Result<Filled> {
        // The three structs are alike: range, mode, and what came of it.
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
        // The struct has a negative error, or what was done before.
        Some(libc::EAGAIN) if progress as i64 > 0 => stopped(progress, Stop::Cut),
        Some(libc::EAGAIN) => stopped(0, Stop::Changing),
        Some(libc::EEXIST) => stopped(0, Stop::Present),
        Some(libc::ENOENT) => stopped(0, Stop::NoRange),
        Some(libc::ESRCH) => stopped(0, Stop::Gone),
        _ => Err(error),
    }
}
