//! A process identified by a descriptor: by the time a pid is used, another process may have it.

use crate::check;
use crate::fds;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const SO_PEERPIDFD: i32 = 77;

/// A process. [`fds::wait`] reports its end.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    fd: OwnedFd,
}

impl Process {
    /// The process at the other end of a connection. `ESRCH` if it has ended.
    pub fn peer(socket: &UnixStream) -> io::Result<Process> {
        let pid = fds::peer_pid(socket)?;
        // A process in a namespace that is not below ours has no pid here.
        if pid == 0 {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let fd = peer_fd(socket).or_else(|_| open(pid))?;
        Ok(Process { pid, fd })
    }

    /// Kills the process with `SIGKILL`. Succeeds if it has already ended.
    pub fn kill(&self) -> io::Result<()> {
        let info = std::ptr::null_mut::<libc::siginfo_t>();
        // SAFETY: no information is passed along, and the other arguments are integers.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.fd.as_raw_fd(), libc::SIGKILL, info, 0) };
        match check(sent) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error),
            _ => Ok(()),
        }
    }

    /// Kills the process, and waits up to `patience` for its end. Returns true if it has ended.
    pub fn end(&self, patience: Duration) -> bool {
        // Fails only if the process has ended.
        let _ = self.kill();
        fds::wait(&[fds::Wait::readable(self)], Some(patience)).is_ok_and(|ready| ready[0])
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The process that connected, exactly. Since Linux 6.5.
fn peer_fd(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut fd = -1i32;
    let mut size = size_of::<i32>() as libc::socklen_t;
    let value = (&raw mut fd).cast();
    // SAFETY: writes one int, of the given size.
    check(unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, value, &mut size) }.into())?;
    // SAFETY: the descriptor was just created and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a system call with integer arguments.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the descriptor was just created and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
