//! What a process can give up before it becomes another program. Nothing here can be taken back by that program.

use crate::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A namespace that a process can leave for one of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    Mount,
    Network,
    Ipc,
    Uts,
}

/// Moves the calling thread, which must be the process' only one, into a new namespace.
pub fn unshare(namespace: Namespace) -> io::Result<()> {
    let flag = match namespace {
        Namespace::Mount => libc::CLONE_NEWNS,
        Namespace::Network => libc::CLONE_NEWNET,
        Namespace::Ipc => libc::CLONE_NEWIPC,
        Namespace::Uts => libc::CLONE_NEWUTS,
    };
    // SAFETY: a call with an integer argument.
    check(unsafe { libc::unshare(flag) }.into()).map(drop)
}

/// What a process may use of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Bytes of a file that it writes.
    FileBytes,
    /// Bytes of a core dump.
    CoreBytes,
    OpenFiles,
    /// Bytes of memory that are kept from being swapped.
    LockedBytes,
    /// Threads of all processes of its user.
    Threads,
}

/// Sets a limit, unless it is lower already. Without a capability it cannot be raised again.
pub fn limit(what: Limit, value: u64) -> io::Result<()> {
    let resource = match what {
        Limit::FileBytes => libc::RLIMIT_FSIZE,
        Limit::CoreBytes => libc::RLIMIT_CORE,
        Limit::OpenFiles => libc::RLIMIT_NOFILE,
        Limit::LockedBytes => libc::RLIMIT_MEMLOCK,
        Limit::Threads => libc::RLIMIT_NPROC,
    };
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct lives through both calls.
    unsafe {
        check(libc::getrlimit(resource, &mut limits).into())?;
        limits.rlim_max = limits.rlim_max.min(value);
        limits.rlim_cur = limits.rlim_max;
        check(libc::setrlimit(resource, &limits).into())?;
    }
    Ok(())
}

/// A write beyond [`Limit::FileBytes`] fails with `EFBIG` instead of ending the process, also in the program that it becomes.
pub fn ignore_file_size_signal() -> io::Result<()> {
    // SAFETY: sets a disposition that runs no code.
    if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Takes every capability out of the set of those that a program can ever gain. Needs `CAP_SETPCAP`.
pub fn drop_bounding_set() -> io::Result<()> {
    for capability in 0.. {
        // SAFETY: a call with integer arguments.
        match check(unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability as libc::c_ulong, 0, 0, 0) }.into()) {
            Ok(0) => {}
            Ok(_) => {
                // SAFETY: a call with integer arguments.
                check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) }.into())?;
            }
            // Beyond the last one that this kernel knows.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Becomes this user, for good, with its group of the same number and no other. A process that was root has no capability then.
pub fn become_user(id: u32) -> io::Result<()> {
    // SAFETY: an empty list is not read; the others take integers.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()).into())?;
        check(libc::setresgid(id, id, id).into())?;
        check(libc::setresuid(id, id, id).into())?;
    }
    Ok(())
}

/// From now on no program that this process becomes gains a privilege by that.
pub fn forbid_new_privileges() -> io::Result<()> {
    // SAFETY: a call with integer arguments.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into()).map(drop)
}

/// Makes `fd` known under `number` too, also to the program that this process becomes.
pub fn bequeath(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: duplicates an owned descriptor; the caller chooses numbers that nothing else of the process uses.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into())?;
    Ok(())
}
