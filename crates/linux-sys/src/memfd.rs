//! Anonymous files: grown, written, sealed, mapped.

use crate::check;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::sync::atomic::AtomicU64;

/// An empty memfd of `size` bytes, close-on-exec, that can be sealed.
pub fn create(name: &CStr, size: u64) -> io::Result<File> {
    // SAFETY: `name` is a valid C string; the call has no other memory effect.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) }.into())?;
    // SAFETY: the descriptor was just created and is owned by nobody else.
    let file = unsafe { File::from_raw_fd(fd as i32) };
    file.set_len(size)?;
    Ok(file)
}

/// Forbids every later write, growth and shrinkage. Fails with `EBUSY` while a writable shared mapping exists.
pub fn seal(file: &File) -> io::Result<()> {
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: fcntl on an owned descriptor with an integer argument.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }.into())?;
    Ok(())
}

/// Whether nobody can change `file` any more.
pub fn is_sealed(file: &File) -> bool {
    let wanted = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    // SAFETY: fcntl on an owned descriptor, without an argument.
    let seals = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) }.into());
    seals.is_ok_and(|seals| seals as i32 & wanted == wanted)
}

/// Gives the memory of `[offset, offset + len)` back; it reads as zeros afterwards.
pub fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: fallocate on an owned descriptor; both numbers are plain offsets.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, len as i64) }.into())?;
    Ok(())
}

/// A mapping of a file, or anonymous memory; unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: a mapping is plain memory without thread affinity. Whoever writes through `base` from several threads keeps
// the writes to disjoint pages, which the page states of a capture guarantee.
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

    /// Maps `len` bytes of `file`, privately: what is written stays here, and the file, which may be sealed, as it is.
    pub fn private(file: &File, len: usize) -> io::Result<Mapping> {
        Self::part(file, 0, len, false)
    }

    /// Maps `len` bytes of `file` from `offset` on for reading and writing, shared or privately.
    pub fn part(file: &File, offset: u64, len: usize, shared: bool) -> io::Result<Mapping> {
        let private = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        let flags = if shared { libc::MAP_SHARED } else { private };
        Self::map(len, libc::PROT_READ | libc::PROT_WRITE, flags, Some((file, offset)))
    }

    /// Zeroed memory that takes up room only where it is written.
    pub fn anonymous(len: usize) -> io::Result<Mapping> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        Self::map(len, libc::PROT_READ | libc::PROT_WRITE, flags, None)
    }

    /// The same in huge pages of 2 MiB, of which the host must have set enough aside.
    pub fn anonymous_huge(len: usize) -> io::Result<Mapping> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        Self::map(len, libc::PROT_READ | libc::PROT_WRITE, flags, None)
    }

    /// Gives the memory of `[offset, offset + len)`, whole pages, back to the kernel. Panics when out of range.
    pub fn give_back(&self, offset: usize, len: usize) -> io::Result<()> {
        let target = self.target(offset, len);
        // SAFETY: in range, as `target` has checked; the pages stay mapped, and nobody holds a borrow of plain bytes in them.
        check(unsafe { libc::madvise(target.cast(), len, libc::MADV_DONTNEED) }.into())?;
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
        // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing.
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

    /// The bytes of `[offset, offset + len)`. Panics when out of range. The caller knows that nobody writes them meanwhile.
    pub fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "mapping range"
        );
        // SAFETY: in range by the assertion, mapped for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.base.add(offset), len) }
    }

    /// The bytes of `[offset, offset + len)`, to be written. Panics when out of range.
    pub fn bytes_mut(&mut self, offset: usize, len: usize) -> &mut [u8] {
        let target = self.target(offset, len);
        // SAFETY: in range, as `target` has checked, mapped for as long as `self` lives, and borrowed by nobody else.
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

    /// Asks for huge pages, or forbids them, wherever the memory is not populated yet. A wish: the host decides.
    pub fn advise_huge_pages(&self, wanted: bool) -> io::Result<()> {
        let advice = if wanted {
            libc::MADV_HUGEPAGE
        } else {
            libc::MADV_NOHUGEPAGE
        };
        // SAFETY: advice for a range that is mapped, which changes the content of no page.
        check(unsafe { libc::madvise(self.base.cast(), self.len, advice) }.into())?;
        Ok(())
    }

    /// The address of `offset`, for a call that lets the kernel write there. Panics when `len` bytes do not fit.
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
        // SAFETY: `target` has room for `bytes.len()` bytes, and a slice cannot overlap memory that nobody borrowed.
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

/// Maps `len` bytes of `fd` from `offset` privately over whatever is at `address`.
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

/// Leaves `[address, address + len)` out of a core dump of this process. What is in the range is not touched.
pub fn exclude_from_dumps(address: u64, len: u64) -> io::Result<()> {
    // SAFETY: advice that changes neither the content nor the protection of any page.
    check(unsafe { libc::madvise(address as *mut libc::c_void, len as usize, libc::MADV_DONTDUMP) }.into())?;
    Ok(())
}

/// Where `file` has content, ascending: the rest of it is holes, which read as zeros. Looking there takes no memory.
pub fn data_ranges(file: &File, len: u64) -> io::Result<Vec<std::ops::Range<u64>>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < len {
        let Some(start) = seek(file, at, libc::SEEK_DATA)? else {
            break;
        };
        let end = seek(file, start, libc::SEEK_HOLE)?.unwrap_or(len).min(len);
        found.push(start..end);
        at = end;
    }
    Ok(found)
}

/// `None` when nothing of the kind follows.
fn seek(file: &File, from: u64, whence: i32) -> io::Result<Option<u64>> {
    // SAFETY: a call with integer arguments on an owned descriptor.
    match check(unsafe { libc::lseek(file.as_raw_fd(), from as i64, whence) }) {
        Ok(offset) => Ok(Some(offset as u64)),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(error) => Err(error),
    }
}
