//! The Linux calls that forkd needs and that no well-kept crate wraps: userfaultfd with write-protection,
//! `PAGEMAP_SCAN`, sealed memfds, reading another process' memory, passing descriptors over a unix socket, and what a
//! process gives up before it becomes another program.
//!
//! This crate holds the only `unsafe` that touches the kernel. Everything in it is a thin, safe function or an owned
//! handle; policy lives with the callers.

pub mod confine;
pub mod fds;
pub mod kvm;
pub mod maps;
pub mod memfd;
pub mod mounts;
pub mod pagemap;
pub mod peer;
pub mod process;
pub mod reflink;
pub mod sched;
pub mod sparse;
pub mod uffd;

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

/// The last OS error when `result` is negative, else `result`.
fn check(result: i64) -> std::io::Result<i64> {
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
