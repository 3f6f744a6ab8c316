//! Reads and writes the memory of another process.
//!
//! Reads use `/proc/PID/mem`, and not `process_vm_readv`. The latter waits for a page that a userfaultfd of that
//! process withholds, for as long as the process likes and beyond its end. The former fails with `EIO`, since the
//! kernel does not let such a read wait for a userfaultfd. The file also stays bound to the process that it was opened
//! for: after the end of that process it reads nothing, even if another process has the same pid by then.

use crate::check;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// A piece of memory to read: `len` bytes from `remote` in the other process to `local` in this one.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    pub local: *mut u8,
    pub remote: u64,
    pub len: usize,
}

/// Access to the memory of a process. The memory itself ends with the process.
#[derive(Debug)]
pub struct Memory {
    file: File,
}

impl Memory {
    /// Opens the memory of the process that has this pid now. Needs the right to trace it.
    pub fn open(pid: i32) -> io::Result<Memory> {
        let file = File::open(format!("/proc/{pid}/mem"))?;
        Ok(Memory { file })
    }

    /// The same, also for writing.
    pub fn open_writable(pid: i32) -> io::Result<Memory> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))?;
        Ok(Memory { file })
    }

    /// Writes all of `bytes` from `remote` on, as the process itself would: pages of private memory become private pages.
    pub fn write(&self, remote: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, remote)
    }

    /// Reads all `pieces`. Write-protected pages do not delay this: reading them needs no fault.
    ///
    /// Fails with `ESRCH` if the process has ended, and with `EIO` at a page that is not mapped, or that a userfaultfd
    /// withholds.
    ///
    /// # Safety
    /// Each `local` must have room for its `len` bytes, and no other code may use them meanwhile.
    pub unsafe fn read(&self, pieces: &[Piece]) -> io::Result<()> {
        for piece in pieces {
            let mut done = 0;
            while done < piece.len {
                let (local, len) = (piece.local.wrapping_add(done), piece.len - done);
                let at = piece.remote + done as u64;
                // SAFETY: passed on from the caller: the rest of the piece has room for the rest of the bytes.
                match check(unsafe { libc::pread(self.file.as_raw_fd(), local.cast(), len, at as i64) } as i64) {
                    Ok(0) => return Err(io::Error::from_raw_os_error(libc::ESRCH)),
                    Ok(got) => done += got as usize,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Fills `buffer` with the bytes from `remote` on.
    pub fn read_into(&self, remote: u64, buffer: &mut [u8]) -> io::Result<()> {
        let piece = Piece {
            local: buffer.as_mut_ptr(),
            remote,
            len: buffer.len(),
        };
        // SAFETY: the buffer has room for its own length, and only this call borrows it.
        unsafe { self.read(&[piece]) }
    }
}

/// The same with `process_vm_readv`, which waits for pages that a userfaultfd withholds. Only to measure own memory.
pub fn readv_into(pid: i32, remote: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        let local = libc::iovec {
            iov_base: rest.as_mut_ptr().cast(),
            iov_len: rest.len(),
        };
        let there = libc::iovec {
            iov_base: (remote + done as u64) as *mut libc::c_void,
            iov_len: rest.len(),
        };
        // SAFETY: the rest of the buffer has room for the bytes, and the kernel checks the other side.
        let got = check(unsafe { libc::process_vm_readv(pid, &local, 1, &there, 1, 0) } as i64)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        done += got as usize;
    }
    Ok(())
}

/// Number of page faults of the calling thread.
pub fn thread_faults() -> io::Result<u64> {
    // SAFETY: all zeros is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: writes one rusage.
    check(unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) }.into())?;
    Ok((usage.ru_minflt + usage.ru_majflt) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PAGE_SIZE;
    use crate::memfd::Mapping;
    use crate::uffd::{Modes, Range, Userfaultfd};

    #[test]
    fn a_page_that_a_userfaultfd_withholds_is_not_waited_for() {
        let memory = Mapping::anonymous(4 * PAGE_SIZE).expect("memory");
        let start = memory.target(0, memory.len()) as u64;
        let uffd = Userfaultfd::create_for_pages().expect("this test needs the right to it: run it as root");
        let missing = Modes {
            missing: true,
            ..Modes::default()
        };
        let end = start + memory.len() as u64;
        uffd.register(Range { start, end }, missing).expect("registered");
        let own = Memory::open(std::process::id() as i32).expect("our own");
        let error = own.read_into(start, &mut [0; 8]).expect_err("nobody serves it");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        uffd.unregister(Range { start, end }).expect("unregistered");
        own.read_into(start, &mut [1; 8]).expect("zeros");
    }

    #[test]
    fn memory_of_a_process_that_has_ended_is_that_of_no_other() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let memory = Memory::open(child.id() as i32).expect("a child may be read");
        child.kill().and_then(|()| child.wait()).expect("its end");
        let error = memory.read_into(1 << 20, &mut [0; 8]).expect_err("it has ended");
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }
}
