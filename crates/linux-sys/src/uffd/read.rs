//! Reads a userfaultfd without ever waiting.
//!
//! `O_NONBLOCK` belongs to the open file description, which is shared with the process that the userfaultfd came from.
//! The other process can clear the flag at any moment, even between a check and a read. So a read must not rely on the flag.

use crate::check;
use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// True while the kernel is believed to support non-blocking reads of a userfaultfd per call, as since Linux 6.10.
static CALL_DECIDES: AtomicBool = AtomicBool::new(true);

/// Older kernels: interrupt a waiting read after this time, again and again until it has noticed.
const INTERRUPT_AFTER: Duration = Duration::from_millis(20);

/// Reads up to `room` bytes. `WouldBlock` or `Interrupted` if there is nothing to read.
///
/// # Safety
/// `buffer` must have room for `room` bytes.
pub unsafe fn read_now(fd: BorrowedFd<'_>, buffer: *mut libc::c_void, room: usize) -> io::Result<usize> {
    if CALL_DECIDES.load(Ordering::Relaxed) {
        let part = libc::iovec {
            iov_base: buffer,
            iov_len: room,
        };
        // SAFETY: passed on from the caller. An offset of -1 stands for a file without a read position.
        let got = check(unsafe { libc::preadv2(fd.as_raw_fd(), &part, 1, -1, libc::RWF_NOWAIT) } as i64);
        match got {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                CALL_DECIDES.store(false, Ordering::Relaxed)
            }
            other => return Ok(other? as usize),
        }
    }
    // SAFETY: passed on from the caller.
    unsafe { read_interrupted(fd, buffer, room) }
}

/// Reads in a call that may wait if the descriptor is blocking. A signal to this thread ends the call.
///
/// # Safety
/// As [`read_now`].
unsafe fn read_interrupted(fd: BorrowedFd<'_>, buffer: *mut libc::c_void, room: usize) -> io::Result<usize> {
    thread_local! {
        static TIMER: OnceCell<Timer> = const { OnceCell::new() };
    }
    TIMER.with(|timer| {
        if timer.get().is_none() {
            let _ = timer.set(Timer::of_this_thread()?);
        }
        let timer = timer.get().expect("just set");
        timer.start(INTERRUPT_AFTER)?;
        // SAFETY: passed on from the caller.
        let got = check(unsafe { libc::read(fd.as_raw_fd(), buffer, room) } as i64);
        timer.stop()?;
        Ok(got? as usize)
    })
}

/// Sends the thread that created it a signal that only interrupts the current call.
struct Timer {
    id: libc::timer_t,
}

impl Timer {
    fn of_this_thread() -> io::Result<Timer> {
        let signal = libc::SIGRTMIN();
        // SAFETY: a handler that does nothing. All zeros are valid for the rest, and without SA_RESTART a call is not resumed.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = ignore as *const () as usize;
            check(libc::sigaction(signal, &action, std::ptr::null_mut()).into())?;
        }
        // SAFETY: all zeros is a valid sigevent to be filled in.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        // SAFETY: a call without arguments.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut id: libc::timer_t = std::ptr::null_mut();
        // SAFETY: both structs live through the call, which writes one id.
        check(unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut id) }.into())?;
        Ok(Timer { id })
    }

    /// Signals after `every`, and repeatedly: the first signal may come before the call has begun to wait.
    fn start(&self, every: Duration) -> io::Result<()> {
        self.set(every.as_nanos() as libc::c_long)
    }

    fn stop(&self) -> io::Result<()> {
        self.set(0)
    }

    fn set(&self, nanoseconds: libc::c_long) -> io::Result<()> {
        let time = libc::timespec {
            tv_sec: 0,
            tv_nsec: nanoseconds,
        };
        let times = libc::itimerspec {
            it_interval: time,
            it_value: time,
        };
        // SAFETY: this value owns the timer, and the struct lives through the call.
        check(unsafe { libc::timer_settime(self.id, 0, &times, std::ptr::null_mut()) }.into()).map(drop)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: this value owns the timer.
        unsafe { libc::timer_delete(self.id) };
    }
}

extern "C" fn ignore(_: libc::c_int) {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uffd::Userfaultfd;
    use std::os::fd::AsFd;
    use std::time::Instant;

    /// A userfaultfd of this process on which a plain read waits forever.
    fn waiting() -> Userfaultfd {
        let uffd = Userfaultfd::create().expect("this test needs the right to it: run it as root");
        // SAFETY: sets a flag of an owned descriptor.
        check(unsafe { libc::fcntl(uffd.as_fd().as_raw_fd(), libc::F_SETFL, 0) }.into()).expect("a flag");
        uffd
    }

    #[test]
    fn a_read_does_not_wait_although_the_descriptor_says_so() {
        let uffd = waiting();
        assert_eq!(uffd.read_faults(&mut Vec::new(), 1).expect("nothing to read"), 0);
        assert_eq!(uffd.read_events(&mut Vec::new()).expect("nothing to read"), 0);
    }

    #[test]
    fn on_an_older_kernel_a_read_that_waits_is_interrupted() {
        let uffd = waiting();
        let mut buffer = [0u64; 4];
        let start = Instant::now();
        for _ in 0..3 {
            // SAFETY: the buffer has that much room.
            let read = unsafe { read_interrupted(uffd.as_fd(), buffer.as_mut_ptr().cast(), size_of_val(&buffer)) };
            let error = read.expect_err("nothing to read");
            assert_eq!(error.kind(), io::ErrorKind::Interrupted, "{error}");
        }
        assert!(start.elapsed() >= INTERRUPT_AFTER, "it has waited");
        assert!(start.elapsed() < Duration::from_secs(10), "not for long");
    }
}
