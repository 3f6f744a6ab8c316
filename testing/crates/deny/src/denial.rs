//! A denial, as written on the command line.

use std::str::FromStr;

/// The system calls that can be named.
const SYSCALLS: [(&str, i64); 5] = [
    ("userfaultfd", libc::SYS_userfaultfd),
    ("memfd_create", libc::SYS_memfd_create),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("pread64", libc::SYS_pread64),
    ("preadv2", libc::SYS_preadv2),
];

/// The requests of `ioctl` that can be named, and how each fails where it is unknown or not allowed.
const REQUESTS: [(&str, u32, i32); 4] = [
    // PAGEMAP_SCAN: on a page map before Linux 6.7.
    ("pagemap-scan", 0xC060_6610, libc::ENOTTY),
    // USERFAULTFD_IOC_NEW: on /dev/userfaultfd, for who may not use it.
    ("userfaultfd-device", 0xAA00, libc::EPERM),
    // UFFDIO_CONTINUE: before Linux 5.13.
    ("userfaultfd-continue", 0xC020_AA07, libc::EINVAL),
    // UFFDIO_POISON: before Linux 6.6.
    ("userfaultfd-poison", 0xC020_AA08, libc::EINVAL),
];

const ERRNOS: [(&str, i32); 5] = [
    ("ENOSYS", libc::ENOSYS),
    ("EPERM", libc::EPERM),
    ("ENOTTY", libc::ENOTTY),
    ("EIO", libc::EIO),
    ("EOPNOTSUPP", libc::EOPNOTSUPP),
];

/// A call that is to fail, and its error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    Syscall {
        number: i64,
        errno: i32,
    },
    /// `ioctl` with this request number, on any descriptor.
    Request {
        request: u32,
        errno: i32,
    },
}

impl FromStr for Denial {
    type Err = String;

    /// `NAME` or `NAME:ERRNO`. A system call fails with `ENOSYS` unless an error is named.
    fn from_str(text: &str) -> Result<Denial, String> {
        let (name, errno) = match text.split_once(':') {
            Some((name, errno)) => (name, Some(errno_of(errno)?)),
            None => (text, None),
        };
        if let Some((_, number)) = SYSCALLS.into_iter().find(|(known, _)| *known == name) {
            let errno = errno.unwrap_or(libc::ENOSYS);
            return Ok(Denial::Syscall { number, errno });
        }
        let found = REQUESTS.into_iter().find(|(known, ..)| *known == name);
        let (_, request, usual) = found.ok_or_else(|| format!("{name:?} is not known; {} are", known_names()))?;
        let errno = errno.unwrap_or(usual);
        Ok(Denial::Request { request, errno })
    }
}

fn errno_of(name: &str) -> Result<i32, String> {
    let found = ERRNOS.into_iter().find(|(known, _)| *known == name);
    found.map(|(_, errno)| errno).ok_or_else(|| {
        let names = ERRNOS.map(|(known, _)| known).join(", ");
        format!("the error {name:?} is not known; {names} are")
    })
}

fn known_names() -> String {
    let requests = REQUESTS.map(|(name, ..)| name);
    [&SYSCALLS.map(|(name, _)| name)[..], &requests[..]].concat().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_is_a_name_and_where_it_matters_an_error() {
        let syscall = |errno| Denial::Syscall {
            number: libc::SYS_userfaultfd,
            errno,
        };
        assert_eq!("userfaultfd".parse(), Ok(syscall(libc::ENOSYS)));
        assert_eq!("userfaultfd:EPERM".parse(), Ok(syscall(libc::EPERM)));
        let request = Denial::Request {
            request: 0xC060_6610,
            errno: libc::ENOTTY,
        };
        assert_eq!("pagemap-scan".parse(), Ok(request));
    }

    #[test]
    fn what_is_not_known_is_named_with_what_is() {
        let error = "mmap".parse::<Denial>().expect_err("unknown");
        assert!(
            error.contains("mmap") && error.contains("userfaultfd-device"),
            "{error}"
        );
        let error = "userfaultfd:EWHAT".parse::<Denial>().expect_err("unknown");
        assert!(error.contains("EWHAT") && error.contains("ENOSYS"), "{error}");
    }
}
