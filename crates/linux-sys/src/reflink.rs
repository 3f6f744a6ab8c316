//! Shares blocks between files without a copy, if the file system allows that.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// The argument of the call, in the kernel's layout.
#[repr(C)]
struct CloneRange {
    from: i64,
    from_offset: u64,
    length: u64,
    to_offset: u64,
}

/// `_IOW(0x94, 13, struct file_clone_range)`.
const FICLONERANGE: libc::c_ulong = 0x4020_940d;

/// Shares blocks of `from` with `to`, from `to_offset` on. All three numbers are multiples of the file system's block.
/// Fails without effect if blocks cannot be shared: between file systems, and on most kinds of them.
pub fn clone_range(from: &File, from_offset: u64, length: u64, to: &File, to_offset: u64) -> io::Result<()> {
    let range = CloneRange {
        from: from.as_raw_fd().into(),
        from_offset,
        length,
        to_offset,
    };
    // SAFETY: both descriptors and the struct live through the call, which reads the struct only.
    crate::check(unsafe { libc::ioctl(to.as_raw_fd(), FICLONERANGE, &raw const range) }.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memfd;

    #[test]
    fn what_cannot_share_says_so_and_is_left_alone() {
        let from = memfd::create(c"from", 4096).expect("memfd");
        let to = memfd::create(c"to", 0).expect("memfd");
        clone_range(&from, 0, 4096, &to, 0).expect_err("memory has no blocks");
        assert_eq!(to.metadata().expect("metadata").len(), 0);
    }
}
