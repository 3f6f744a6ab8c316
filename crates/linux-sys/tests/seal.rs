//! Sealing a file of which somebody holds a page for a moment, as the kernel does when it moves or swaps one.

use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::{self, Mapping};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Longer than the kernel waits by itself.
const HELD_FOR: Duration = Duration::from_millis(600);

#[test]
fn a_memfd_is_sealed_once_the_kernel_lets_go_of_its_pages() {
    let file = memfd::create(c"test", PAGE_SIZE as u64).expect("memfd");
    let writable = Mapping::read_write(&file, PAGE_SIZE).expect("map");
    writable.write(0, &[7]);
    let (mut reader, writer) = std::io::pipe().expect("pipe");
    let piece = libc::iovec {
        iov_base: writable.target(0, PAGE_SIZE).cast(),
        iov_len: PAGE_SIZE,
    };
    // SAFETY: one valid piece of memory. The pipe holds its page, not a copy, until it is read.
    let spliced = unsafe { libc::vmsplice(writer.as_raw_fd(), &piece, 1, 0) };
    assert_eq!(spliced, PAGE_SIZE as isize, "{}", std::io::Error::last_os_error());
    drop(writable);
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(HELD_FOR);
            let mut page = [0; PAGE_SIZE];
            reader.read_exact(&mut page).expect("read");
            assert_eq!(page[0], 7);
        });
        memfd::seal(&file).expect("seal");
    });
    assert!(start.elapsed() >= HELD_FOR, "sealed while a page was held");
    assert!(memfd::is_sealed(&file));
}

#[test]
fn a_memfd_that_somebody_can_still_write_is_not_sealed() {
    let file = memfd::create(c"test", PAGE_SIZE as u64).expect("memfd");
    let _writable = Mapping::read_write(&file, PAGE_SIZE).expect("map");
    let error = memfd::seal(&file).expect_err("refused");
    assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy);
}
