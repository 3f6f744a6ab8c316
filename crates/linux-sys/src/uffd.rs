//! userfaultfd: creating it, registering memory, write-protection. `fill` fills pages, `events` reads reports, `probe`
//! tests the kernel.

mod events;
mod fill;
mod probe;
mod read;

pub use events::Event;
pub use fill::{Filled, Stop};
pub use probe::{probe, probe_missing, probe_sharing};

use crate::check;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

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

/// The kinds of faults that a range is registered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Modes {
    /// Missing pages: to be copied, or to be zeros.
    pub missing: bool,
    /// Pages that are in the file under a mapping of shared memory, but not in the mapping.
    pub minor: bool,
    /// Writes to protected pages.
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

/// A userfaultfd. It acts on the address space of the process that created it, even when another process holds it.
#[derive(Debug)]
pub struct Userfaultfd {
    fd: OwnedFd,
}

impl Userfaultfd {
    /// Creates a userfaultfd for the calling process, non-blocking and close-on-exec, which can write-protect shared
    /// memory and, if the kernel supports it, pages that were never populated.
    ///
    /// Fails with `EPERM` without the right to handle faults of the kernel, with `ENOSYS` without the call, and with
    /// `EINVAL` on a kernel before 5.19.
    pub fn create() -> io::Result<Userfaultfd> {
        Self::create_from(None)
    }

    /// The same for a process without that right that inherited `device`: `/dev/userfaultfd`, opened by a process with the right.
    pub fn create_from(device: Option<BorrowedFd<'_>>) -> io::Result<Userfaultfd> {
        let wanted = FEATURE_PAGEFAULT_FLAG_WP | FEATURE_WP_HUGETLBFS_SHMEM;
        // A descriptor accepts only one UFFDIO_API, so each attempt needs a new descriptor.
        Self::open_with(device, wanted | FEATURE_WP_UNPOPULATED).or_else(|_| Self::open_with(device, wanted))
    }

    /// Creates a userfaultfd that serves pages, as Firecracker does: it reports only faults and removals.
    pub fn create_for_pages() -> io::Result<Userfaultfd> {
        Self::open_with(None, FEATURE_EVENT_REMOVE)
    }

    /// The same for a VMM that expects its writes to be watched: requests the features for that, too.
    pub fn create_for_pages_and_writes() -> io::Result<Userfaultfd> {
        let writes = FEATURE_PAGEFAULT_FLAG_WP | FEATURE_WP_UNPOPULATED;
        Self::open_with(None, FEATURE_EVENT_REMOVE | writes)
    }

    /// Creates a userfaultfd that write-protects shared memory, and reports removals too.
    pub fn create_for_writes_and_removals() -> io::Result<Userfaultfd> {
        let writes = FEATURE_PAGEFAULT_FLAG_WP | FEATURE_WP_HUGETLBFS_SHMEM;
        Self::open_with(None, writes | FEATURE_EVENT_REMOVE)
    }

    /// Creates a userfaultfd that write-protects shared memory, and reports forks of the process, each with a new userfaultfd.
    pub fn create_for_writes_and_forks() -> io::Result<Userfaultfd> {
        let writes = FEATURE_PAGEFAULT_FLAG_WP | FEATURE_WP_HUGETLBFS_SHMEM;
        Self::open_with(None, writes | FEATURE_EVENT_FORK)
    }

    /// Creates one as Rust's `userfaultfd` crate does for write-protection: it cannot name the shared-memory feature.
    pub fn create_for_writes_alone() -> io::Result<Userfaultfd> {
        Self::open_with(None, FEATURE_PAGEFAULT_FLAG_WP)
    }

    fn open_with(device: Option<BorrowedFd<'_>>, features: u64) -> io::Result<Userfaultfd> {
        let uffd = Userfaultfd { fd: open_raw(device)? };
        let mut api = [UFFD_API, features, 0u64];
        // SAFETY: `api` has the layout of struct uffdio_api and outlives the call.
        check(unsafe { libc::ioctl(uffd.fd.as_raw_fd(), UFFDIO_API, &mut api) }.into())?;
        Ok(uffd)
    }

    /// Takes over a descriptor that another process created and initialised. Refuses a descriptor of another kind, on
    /// which the calls would do something else, and a blocking one, since it cannot be waited for along with others.
    pub fn adopt(fd: OwnedFd) -> io::Result<Userfaultfd> {
        let refused = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        let kind = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        if kind != std::path::Path::new("anon_inode:[userfaultfd]") {
            return Err(refused(format!(
                "a descriptor is {} and no userfaultfd",
                kind.display()
            )));
        }
        // SAFETY: reads the flags of an owned descriptor.
        let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) }.into())?;
        if flags as i32 & libc::O_NONBLOCK == 0 {
            return Err(refused("a userfaultfd was created without O_NONBLOCK".into()));
        }
        Ok(Userfaultfd { fd })
    }

    /// True if it also protects pages of anonymous memory that were never populated, as since Linux 6.4. Pages of
    /// memory over a file are protected in any case.
    pub fn protects_unpopulated(&self) -> io::Result<bool> {
        Ok(self.features()? & FEATURE_WP_UNPOPULATED != 0)
    }

    /// True if it reports freed memory. Without these reports, freed pages cannot be told from pages that never
    /// existed.
    pub fn reports_removals(&self) -> io::Result<bool> {
        Ok(self.features()? & FEATURE_EVENT_REMOVE != 0)
    }

    /// True if a thread that changes the address space waits until the change has been read here.
    pub fn reports_changes(&self) -> io::Result<bool> {
        let changes = FEATURE_EVENT_FORK | FEATURE_EVENT_REMAP | FEATURE_EVENT_REMOVE | FEATURE_EVENT_UNMAP;
        Ok(self.features()? & changes != 0)
    }

    /// The features that its creator asked for.
    fn features(&self) -> io::Result<u64> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd()))?;
        // The line is `API:`, a number, the requested features, and the calls, in hexadecimal.
        let api = info.lines().find_map(|line| line.strip_prefix("API:"));
        let features = api.and_then(|api| u64::from_str_radix(api.split(':').nth(1)?, 16).ok());
        features.ok_or_else(|| io::Error::other("a userfaultfd does not tell its features"))
    }

    /// Enables write-protection in `range`. Nothing is protected yet.
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

    /// Registers `range`, which may be registered already: modes are added, never removed. `EINVAL` if the memory is
    /// unmapped, or of a kind without such faults.
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

    /// Returns the handling of faults in `range` to the kernel. Waiting threads continue.
    pub fn unregister(&self, range: Range) -> io::Result<()> {
        let mut arguments = [range.start, range.len()];
        // SAFETY: the array has the layout of struct uffdio_range and outlives the call.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_UNREGISTER, &mut arguments) }.into())?;
        Ok(())
    }

    /// Makes every later write to `range` fault, once per page, and wait.
    pub fn protect(&self, range: Range) -> io::Result<()> {
        self.write_protect(range, WRITEPROTECT_MODE_WP)
    }

    /// Permits writes to `range`, and wakes waiting writers.
    pub fn unprotect(&self, range: Range) -> io::Result<()> {
        self.write_protect(range, 0)
    }

    /// Fails with `TimedOut` if the address space keeps changing, or if no reader reads its changes, for [`CHANGING_MAX`].
    fn write_protect(&self, range: Range, mode: u64) -> io::Result<()> {
        let mut patience = Patience::start();
        loop {
            let mut arguments = [range.start, range.len(), mode];
            // SAFETY: the array has the layout of struct uffdio_writeprotect and outlives the call.
            match check(unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_WRITEPROTECT, &mut arguments) }.into()) {
                Ok(_) => return Ok(()),
                // The mappings are changing under us; the kernel asks to be called again.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => patience.pause()?,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Longest wait for a change of the address space. The process that owns the memory could make the change last forever.
pub const CHANGING_MAX: Duration = Duration::from_millis(250);
/// Calls that are retried at once: most changes are over by then.
const CHANGING_TRIES: u32 = 8;
/// Pause between later tries. The thread sleeps: an urgent one that yielded would keep all ordinary ones from running.
const CHANGING_PAUSE: Duration = Duration::from_micros(50);

/// Waits between calls that must be made again.
struct Patience {
    tries: u32,
    until: Option<Instant>,
}

impl Patience {
    fn start() -> Patience {
        Patience { tries: 0, until: None }
    }

    fn pause(&mut self) -> io::Result<()> {
        self.tries += 1;
        if self.tries <= CHANGING_TRIES {
            return Ok(());
        }
        let until = *self.until.get_or_insert_with(|| Instant::now() + CHANGING_MAX);
        if Instant::now() >= until {
            let why = format!("the address space was changing for {CHANGING_MAX:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        std::thread::sleep(CHANGING_PAUSE);
        Ok(())
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
        // SAFETY: the descriptor was just created and has no other owner.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => match device {
            Some(device) => ask_device(device, flags),
            None => open_device().and_then(|device| ask_device(device.as_fd(), flags)),
        }
        .map_err(|_| error),
        Err(error) => Err(error),
    }
}

/// Opens the device. Since Linux 6.1 a process that has it open gets full userfaultfds from it without a capability.
pub fn open_device() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/userfaultfd")
}

fn ask_device(device: BorrowedFd<'_>, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: an ioctl with an integer argument on an owned descriptor.
    let fd = check(unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, flags) }.into())?;
    // SAFETY: the descriptor was just created and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// True if the kernel has userfaultfd at all. A process that is handed a userfaultfd needs no right to create one.
pub fn exists() -> bool {
    // SAFETY: no kernel knows these flags: nothing is created.
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

    #[test]
    fn a_userfaultfd_that_blocks_is_not_adopted() {
        let Userfaultfd { fd } = Userfaultfd::create().expect("this test needs the right to it: run it as root");
        // SAFETY: sets a flag of an owned descriptor.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, 0) }.into()).expect("a flag");
        let error = Userfaultfd::adopt(fd).expect_err("refused");
        assert!(error.to_string().contains("O_NONBLOCK"), "{error}");
    }
}
