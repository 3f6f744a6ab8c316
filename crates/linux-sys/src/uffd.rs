//! userfaultfd: creating it, registering memory, write-protection. Filling pages is in `fill`, what it reports in `events`,
//! trying what the kernel can do in `probe`.

mod events;
mod fill;
mod probe;

pub use events::Event;
pub use fill::{Filled, Stop};
pub use probe::{probe, probe_missing, probe_sharing};

use crate::check;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const UFFD_API: u64 = 0xAA;
const FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
const FEATURE_WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const FEATURE_EVENT_FORK: u64 = 1 << 1;
const FEATURE_EVENT_REMAP: u64 = 1 << 2;
const FEATURE_EVENT_REMOVE: u64 = 1 << 3;
const FEATURE_EVENT_UNMAP: u64 = 1 << 6;
const REGISTER_MODE_MISSING: u64 = 1 << 0;
const REGISTER_MODE_WP: u64 = 1 << 1;
const REGISTER_MODE_MINOR: u64 = 1 << 2;
const WRITEPROTECT_MODE_WP: u64 = 1 << 0;

const UFFDIO_API: u64 = iowr(0x3F, 24);
const UFFDIO_REGISTER: u64 = iowr(0x00, 32);
const UFFDIO_UNREGISTER: u64 = ior(0x01, 16);
const UFFDIO_WRITEPROTECT: u64 = iowr(0x06, 24);
const USERFAULTFD_IOC_NEW: u64 = 0xAA00;

const fn iowr(number: u64, size: u64) -> u64 {
    (3 << 30) | (size << 16) | (UFFD_API << 8) | number
}

const fn ior(number: u64, size: u64) -> u64 {
    (2 << 30) | (size << 16) | (UFFD_API << 8) | number
}

/// Which faults a range is registered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Modes {
    /// Pages that nothing has: to be copied, or to be zeros.
    pub missing: bool,
    /// Pages that the file under a mapping of shared memory has, and the mapping has not.
    pub minor: bool,
    /// Writes to pages that are protected.
    pub write_protect: bool,
}

/// A half-open range of addresses in the address space that the userfaultfd belongs to, page-aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub end: u64,
}

impl Range {
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The range in pieces of at most `bytes`, which is a multiple of the page size.
    pub fn steps(self, bytes: u64) -> impl Iterator<Item = Range> {
        (self.start..self.end).step_by(bytes as usize).map(move |start| Range {
            start,
            end: (start + bytes).min(self.end),
        })
    }
}

/// A userfaultfd. It acts on the address space of the process that created it, whoever holds it.
#[derive(Debug)]
pub struct Userfaultfd {
    fd: OwnedFd,
}

impl Userfaultfd {
    /// Creates one for the calling process, non-blocking and close-on-exec, able to write-protect shared memory and,
    /// where the kernel can, pages that were never populated.
    ///
    /// Fails with `EPERM` without the right to handle faults of the kernel, `ENOSYS` without the call, `EINVAL` on a
    /// kernel before 5.19.
    pub fn create() -> io::Result<Userfaultfd> {
        Self::create_from(None)
    }

    /// The same in a process without that right, which was left `device`: `/dev/userfaultfd`, opened by one that may.
    pub fn create_from(device: Option<BorrowedFd<'_>>) -> io::Result<Userfaultfd> {
        let wanted = FEATURE_PAGEFAULT_FLAG_WP | FEATURE_WP_HUGETLBFS_SHMEM;
        // A descriptor takes one UFFDIO_API only, so that each attempt needs a new one.
        Self::open_with(device, wanted | FEATURE_WP_UNPOPULATED).or_else(|_| Self::open_with(device, wanted))
    }

    /// Creates one that serves pages, as Firecracker does: it reports nothing but faults and removals.
    pub fn create_for_pages() -> io::Result<Userfaultfd> {
        Self::open_with(None, FEATURE_EVENT_REMOVE)
    }

    /// The same of a VMM that knows that its writes may be watched: it asks for what there is for that.
    pub fn create_for_pages_and_writes() -> io::Result<Userfaultfd> {
        let writes = FEATURE_PAGEFAULT_FLAG_WP | FEATURE_WP_UNPOPULATED;
        Self::open_with(None, FEATURE_EVENT_REMOVE | writes)
    }

    /// Creates one that write-protects shared memory, and reports removals too.
    pub fn create_for_writes_and_removals() -> io::Result<Userfaultfd> {
        let writes = FEATURE_PAGEFAULT_FLAG_WP | FEATURE_WP_HUGETLBFS_SHMEM;
        Self::open_with(None, writes | FEATURE_EVENT_REMOVE)
    }

    fn open_with(device: Option<BorrowedFd<'_>>, features: u64) -> io::Result<Userfaultfd> {
        let uffd = Userfaultfd { fd: open_raw(device)? };
        let mut api = [UFFD_API, features, 0u64];
        // SAFETY: `api` has the layout of struct uffdio_api and outlives the call.
        check(unsafe { libc::ioctl(uffd.fd.as_raw_fd(), UFFDIO_API, &mut api) }.into())?;
        Ok(uffd)
    }

    /// Takes over a descriptor that another process created and initialised. One of another kind is refused, since what is
    /// asked of it would do something else there, and one that would wait is made not to.
    pub fn adopt(fd: OwnedFd) -> io::Result<Userfaultfd> {
        let kind = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        if kind != std::path::Path::new("anon_inode:[userfaultfd]") {
            let what = format!("a descriptor is {} and no userfaultfd", kind.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        // SAFETY: sets a flag of an owned descriptor.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }.into())?;
        Ok(Userfaultfd { fd })
    }

    /// Whether it also protects pages of anonymous memory that were never populated, as it does since Linux 6.4. Those of
    /// memory over a file it protects in any case.
    pub fn protects_unpopulated(&self) -> io::Result<bool> {
        Ok(self.features()? & FEATURE_WP_UNPOPULATED != 0)
    }

    /// Whether it reports memory that is given back. Without it, a page that was given back cannot be told from one that
    /// was never there.
    pub fn reports_removals(&self) -> io::Result<bool> {
        Ok(self.features()? & FEATURE_EVENT_REMOVE != 0)
    }

    /// Whether whoever changes the address space waits until somebody has read of it here.
    pub fn reports_changes(&self) -> io::Result<bool> {
        let changes = FEATURE_EVENT_FORK | FEATURE_EVENT_REMAP | FEATURE_EVENT_REMOVE | FEATURE_EVENT_UNMAP;
        Ok(self.features()? & changes != 0)
    }

    /// Whether it write-protects memory that is mapped shared, which says that it write-protects at all.
    pub fn protects_shared(&self) -> io::Result<bool> {
        let wanted = FEATURE_PAGEFAULT_FLAG_WP | FEATURE_WP_HUGETLBFS_SHMEM;
        Ok(self.features()? & wanted == wanted)
    }

    /// The features that its creator asked for.
    fn features(&self) -> io::Result<u64> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd()))?;
        // `API:`, then its number, the features that were asked for, and the calls, in hexadecimal.
        let api = info.lines().find_map(|line| line.strip_prefix("API:"));
        let features = api.and_then(|api| u64::from_str_radix(api.split(':').nth(1)?, 16).ok());
        features.ok_or_else(|| io::Error::other("a userfaultfd does not tell its features"))
    }

    /// Makes write-protection possible in `range`. Nothing is protected yet.
    pub fn register_write_protect(&self, range: Range) -> io::Result<()> {
        let write_protect = true;
        self.register(
            range,
            Modes {
                write_protect,
                ..Modes::default()
            },
        )
    }

    /// Registers `range`, which may be registered already: modes are added, never taken away. `EINVAL` when the memory there
    /// is of a kind that has no such faults, or is not mapped.
    pub fn register(&self, range: Range, modes: Modes) -> io::Result<()> {
        let bit = |wanted: bool, mode: u64| if wanted { mode } else { 0 };
        let mode = bit(modes.missing, REGISTER_MODE_MISSING)
            | bit(modes.minor, REGISTER_MODE_MINOR)
            | bit(modes.write_protect, REGISTER_MODE_WP);
        let mut register = [range.start, range.len(), mode, 0u64];
        // SAFETY: the array has the layout of struct uffdio_register and outlives the call.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_REGISTER, &mut register) }.into())?;
        Ok(())
    }

    /// From now on faults in `range` are the kernel's own affair. Those that wait go on.
    pub fn unregister(&self, range: Range) -> io::Result<()> {
        let mut arguments = [range.start, range.len()];
        // SAFETY: the array has the layout of struct uffdio_range and outlives the call.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_UNREGISTER, &mut arguments) }.into())?;
        Ok(())
    }

    /// Every later write to `range` faults, once a page, and waits.
    pub fn protect(&self, range: Range) -> io::Result<()> {
        self.write_protect(range, WRITEPROTECT_MODE_WP)
    }

    /// Lets writes to `range` through and wakes those that wait.
    pub fn unprotect(&self, range: Range) -> io::Result<()> {
        self.write_protect(range, 0)
    }

    fn write_protect(&self, range: Range, mode: u64) -> io::Result<()> {
        loop {
            let mut arguments = [range.start, range.len(), mode];
            // SAFETY: the array has the layout of struct uffdio_writeprotect and outlives the call.
            match check(unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_WRITEPROTECT, &mut arguments) }.into()) {
                Ok(_) => return Ok(()),
                // The mappings are changing under us; the kernel asks to be called again.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Userfaultfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn open_raw(device: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: a system call with an integer argument.
    match check(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) }) {
        // SAFETY: the descriptor was just created and is owned by nobody else.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => match device {
            Some(device) => ask_device(device, flags),
            None => open_device().and_then(|device| ask_device(device.as_fd(), flags)),
        }
        .map_err(|_| error),
        Err(error) => Err(error),
    }
}

/// Since Linux 6.1 whoever may open the device, or was left it, gets full userfaultfds from it without a capability.
pub fn open_device() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/userfaultfd")
}

fn ask_device(device: BorrowedFd<'_>, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: an ioctl with an integer argument on an owned descriptor.
    let fd = check(unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, flags) }.into())?;
    // SAFETY: the descriptor was just created and is owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Whether the kernel has userfaultfd at all. Whoever is handed one needs no right to create one.
pub fn exists() -> bool {
    // SAFETY: flags that no kernel knows: nothing is made.
    let refused = check(unsafe { libc::syscall(libc::SYS_userfaultfd, -1) });
    refused.is_err_and(|error| error.raw_os_error() != Some(libc::ENOSYS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_of_another_kind_is_not_adopted() {
        let other = File::open("/dev/null").expect("it is there");
        let error = Userfaultfd::adopt(other.into()).expect_err("refused");
        assert!(error.to_string().contains("/dev/null"), "{error}");
    }
}
