//! The Linux calls that forkd needs and that no well-kept crate wraps: userfaultfd with write-protection,
//! `PAGEMAP_SCAN`, sealed memfds, reading the memory of another process, passing descriptors over a unix socket, and
//! dropping rights before exec.
//!
//! This crate holds the only `unsafe` that touches the kernel. Everything in it is a thin, safe function or an owned
//! handle; policy lives with the callers.

pub mod confine;
pub mod fds;
pub mod kvm;
pub mod maps;
pub mod memfd;
pub mod mounts;
pub mod net;
pub mod pagemap;
pub mod peer;
pub mod process;
pub mod random;
pub mod reflink;
pub mod sched;
pub mod shared_page;
pub mod sparse;
pub mod uffd;

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

/// The exit status of a program that may succeed if it is started again later, as in `sysexits.h`.
pub const EX_TEMPFAIL: u8 = 75;

/// The last OS error if `result` is negative, else `result`.
fn check(result: i64) -> std::io::Result<i64> {
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
