//! Rights that a process can drop before it becomes another program. That program cannot regain them.

use crate::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A namespace that a process can replace by a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    Mount,
    Network,
    Ipc,
    Uts,
}

/// Moves the calling thread, which must be the only one of its process, into a new namespace.
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

/// A resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Size of a file that the process writes.
    FileBytes,
    /// Size of a core dump.
    CoreBytes,
    OpenFiles,
    /// Bytes of memory that are locked against swapping.
    LockedBytes,
    /// Threads of all processes of the user.
    Threads,
}

/// Sets a limit, unless it is already lower. Raising it again needs a capability.
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

/// Makes a write beyond [`Limit::FileBytes`] fail with `EFBIG` instead of ending the process, also after exec.
pub fn ignore_file_size_signal() -> io::Result<()> {
    // SAFETY: sets a disposition that runs no code.
    if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Removes every capability from the bounding set, so that no program can ever gain one. Needs `CAP_SETPCAP`.
pub fn drop_bounding_set() -> io::Result<()> {
    for capability in 0.. {
        // SAFETY: a call with integer arguments.
        match check(unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability as libc::c_ulong, 0, 0, 0) }.into()) {
            Ok(0) => {}
            Ok(_) => {
                // SAFETY: a call with integer arguments.
                check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) }.into())?;
            }
            // The kernel knows no further capability.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Becomes this user for good, with only the group of the same number. A process that was root then has no capability.
pub fn become_user(id: u32) -> io::Result<()> {
    // SAFETY: an empty list is not read. The other calls take integers.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()).into())?;
        check(libc::setresgid(id, id, id).into())?;
        check(libc::setresuid(id, id, id).into())?;
    }
    Ok(())
}

/// Prevents every program that this process executes from gaining privileges.
pub fn forbid_new_privileges() -> io::Result<()> {
    // SAFETY: a call with integer arguments.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into()).map(drop)
}

/// Duplicates `fd` as `number`, which also stays open in the program that this process becomes.
pub fn bequeath(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: duplicates an owned descriptor; the caller chooses numbers that nothing else of the process uses.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into())?;
    Ok(())
}
