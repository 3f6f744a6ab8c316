//! How much a VMM may use of what has a number.

use forkd_linux_sys::confine::{self, Limit};
use std::io;

/// Limit for its console, its log and a device state, which are files. Further bytes are lost, and the VMM continues.
const FILE_BYTES: u64 = 16 << 20;
/// A long chain of layers arrives as one descriptor per layer. Each is closed once it is mapped.
const OPEN_FILES: u64 = 16_384;
/// vCPUs, of which there are at most 32, QEMU's own threads, and its pool of 64 for disk requests.
const THREADS: u64 = 256;

/// `own_user` says that no other program's threads are counted with the VMM's.
pub fn apply(own_user: bool) -> io::Result<()> {
    confine::ignore_file_size_signal()?;
    confine::limit(Limit::FileBytes, FILE_BYTES)?;
    confine::limit(Limit::CoreBytes, 0)?;
    confine::limit(Limit::OpenFiles, OPEN_FILES)?;
    confine::limit(Limit::LockedBytes, 0)?;
    if own_user {
        confine::limit(Limit::Threads, THREADS)?;
    }
    Ok(())
}
