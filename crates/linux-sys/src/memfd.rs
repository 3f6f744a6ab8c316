//! Anonymous files: created, written, sealed, mapped.

use crate::check;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// Creates an empty memfd of `size` bytes, close-on-exec, that can be sealed.
pub fn create(name: &CStr, size: u64) -> io::Result<File> {
    // SAFETY: `name` is a valid C string; the call has no other memory effect.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) }.into())?;
    // SAFETY: the descriptor was just created and has no other owner.
    let file = unsafe { File::from_raw_fd(fd as i32) };
    file.set_len(size)?;
    Ok(file)
}

/// The kernel releases a page that it moves or swaps within this time.
const BUSY_FOR: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Forbids every later write, growth and shrinkage. Fails with `EBUSY` while a writable shared mapping exists, after a
/// wait: the kernel reports the same error while it moves or swaps one of the file's pages.
pub fn seal(file: &File) -> io::Result<()> {
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    let start = Instant::now();
    loop {
        // SAFETY: fcntl on an owned descriptor with an integer argument.
        match check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && start.elapsed() < BUSY_FOR => {
                std::thread::sleep(LOOK_AGAIN);
            }
            result => return result.map(drop),
        }
    }
}

/// Frees all content of `file`. Nothing can be written to it any more, even by processes that have it open or mapped.
pub fn empty(file: &File) -> io::Result<()> {
    // SAFETY: fcntl on an owned descriptor with an integer argument.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_GROW) }.into())?;
    // Truncate last, so that nothing can be written in between.
    file.set_len(0)
}

/// True if no process can change `file` any more.
pub fn is_sealed(file: &File) -> bool {
    let wanted = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    // SAFETY: fcntl on an owned descriptor, without an argument.
    let seals = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) }.into());
    seals.is_ok_and(|seals| seals as i32 & wanted == wanted)
}

/// Frees the memory of `[offset, offset + len)`. It then reads as zeros.
pub fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: fallocate on an owned descriptor; both numbers are plain offsets.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, len as i64) }.into())?;
    Ok(())
}

/// A mapping of a file, or anonymous memory. Dropping it unmaps it.
#[derive(Debug)]
pub struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: a mapping is plain memory without thread affinity. Threads that write through `base` keep to disjoint pages,
// which the page states of a capture guarantee.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `file`, shared, for reading only.
    pub fn read_only(file: &File, len: usize) -> io::Result<Mapping> {
        Self::map(len, libc::PROT_READ, libc::MAP_SHARED, Some((file, 0)))
    }

    /// Maps `len` bytes of `file`, shared, for reading and writing.
    pub fn read_write(file: &File, len: usize) -> io::Result<Mapping> {
        Self::part(file, 0, len, true)
    }

    /// Maps `len` bytes of `file` privately: writes stay here, and the file, which may be sealed, does not change.
    pub fn private(file: &File, len: usize) -> io::Result<Mapping> {
        Self::part(file, 0, len, false)
    }

    /// Maps `len` bytes of `file` from `offset` on for reading and writing, shared or privately.
    pub fn part(file: &File, offset: u64, len: usize, shared: bool) -> io::Result<Mapping> {
        let private = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        let flags = if shared { libc::MAP_SHARED } else { private };
        Self::map(len, libc::PROT_READ | libc::PROT_WRITE, flags, Some((file, offset)))
    }

    /// Maps zeroed memory that uses RAM only where it is written.
    pub fn anonymous(len: usize) -> io::Result<Mapping> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        Self::map(len, libc::PROT_READ | libc::PROT_WRITE, flags, None)
    }

    /// The same in huge pages of 2 MiB, which the host must have reserved.
    pub fn anonymous_huge(len: usize) -> io::Result<Mapping> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        Self::map(len, libc::PROT_READ | libc::PROT_WRITE, flags, None)
    }

    /// Frees the memory of `[offset, offset + len)`, whole pages. Panics when out of range.
    pub fn give_back(&self, offset: usize, len: usize) -> io::Result<()> {
        let target = self.target(offset, len);
        // SAFETY: in range, as `target` has checked. The pages stay mapped, and no code holds a borrow of plain bytes in them.
        check(unsafe { libc::madvise(target.cast(), len, libc::MADV_DONTNEED) }.into())?;
        Ok(())
    }

    /// Asks the kernel to swap out `[offset, offset + len)`, whole pages. Only a hint: without swap space nothing
    /// happens. Panics when out of range.
    pub fn page_out(&self, offset: usize, len: usize) -> io::Result<()> {
        let target = self.target(offset, len);
        // SAFETY: advice for a mapped range, as `target` has checked, which changes the content of no page.
        check(unsafe { libc::madvise(target.cast(), len, libc::MADV_PAGEOUT) }.into())?;
        Ok(())
    }

    fn map(len: usize, prot: i32, flags: i32, file: Option<(&File, u64)>) -> io::Result<Mapping> {
        if len == 0 {
            return Ok(Mapping {
                base: std::ptr::NonNull::dangling().as_ptr(),
                len: 0,
            });
        }
        let (fd, offset) = file.map_or((-1, 0), |(file, offset)| (file.as_raw_fd(), offset as i64));
        // SAFETY: a new mapping at an address that the kernel chooses overlaps nothing.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { base: base.cast(), len })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of `[offset, offset + len)`. Panics when out of range. The caller ensures that nothing writes them meanwhile.
    pub fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "mapping range"
        );
        // SAFETY: in range by the assertion, mapped for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.base.add(offset), len) }
    }

    /// The bytes of `[offset, offset + len)`, for writing. Panics when out of range.
    pub fn bytes_mut(&mut self, offset: usize, len: usize) -> &mut [u8] {
        let target = self.target(offset, len);
        // SAFETY: in range, as `target` has checked, mapped for as long as `self` lives, and not borrowed elsewhere.
        unsafe { std::slice::from_raw_parts_mut(target, len) }
    }

    /// The word at `offset`, for threads that share it. Panics when out of range or not aligned.
    #[inline]
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(
            offset.is_multiple_of(8) && offset.checked_add(8).is_some_and(|end| end <= self.len),
            "a word of the mapping"
        );
        // SAFETY: in range and aligned by the assertion, and mapped for as long as `self` lives.
        unsafe { AtomicU64::from_ptr(self.base.add(offset).cast()) }
    }

    /// Asks for huge pages, or forbids them, where the memory is not populated yet. Only a hint: the host decides.
    pub fn advise_huge_pages(&self, wanted: bool) -> io::Result<()> {
        let advice = if wanted {
            libc::MADV_HUGEPAGE
        } else {
            libc::MADV_NOHUGEPAGE
        };
        // SAFETY: advice for a mapped range, which changes the content of no page.
        check(unsafe { libc::madvise(self.base.cast(), self.len, advice) }.into())?;
        Ok(())
    }

    /// The address of `offset`, for a call that lets the kernel write there. Panics if `len` bytes do not fit.
    pub fn target(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "mapping range"
        );
        // SAFETY: in range by the assertion.
        unsafe { self.base.add(offset) }
    }

    /// Copies `bytes` to `offset`. Panics when out of range.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let target = self.target(offset, bytes.len());
        // SAFETY: `target` has room for `bytes.len()` bytes, and a slice cannot overlap unborrowed memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: unmaps exactly what `map` mapped; no borrow outlives `self`.
            unsafe { libc::munmap(self.base.cast(), self.len) };
        }
    }
}

/// Maps `len` bytes of `fd` from `offset` privately over the memory at `address`.
///
/// # Safety
/// The range must lie inside memory that the caller owns and that nothing reads or writes meanwhile.
pub unsafe fn map_private_over(address: u64, len: u64, fd: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the caller vouches for the range. The system call is made directly, because in the shim the libc
    // function of this name is our own.
    check(unsafe { libc::syscall(libc::SYS_mmap, address, len, prot, flags, fd.as_raw_fd(), offset) })?;
    Ok(())
}

/// Frees what was written to `[address, address + len)`, private anonymous memory, which then has zeros.
///
/// # Safety
/// The range must lie inside memory that the caller owns and that nothing reads or writes meanwhile.
pub unsafe fn forget_private(address: u64, len: u64) -> io::Result<()> {
    // SAFETY: the caller vouches for the range.
    check(unsafe { libc::madvise(address as *mut libc::c_void, len as usize, libc::MADV_DONTNEED) }.into())?;
    Ok(())
}

/// Excludes `[address, address + len)` from a core dump of this process. The memory itself does not change.
pub fn exclude_from_dumps(address: u64, len: u64) -> io::Result<()> {
    // SAFETY: advice that changes neither the content nor the protection of any page.
    check(unsafe { libc::madvise(address as *mut libc::c_void, len as usize, libc::MADV_DONTDUMP) }.into())?;
    Ok(())
}
