//! The same captures on kernels that lack newer features.

use super::area::Area;
use super::instant::{Met, capture, capture_thirds};
use forkd_deny::deny;
use forkd_linux_sys::uffd::Userfaultfd;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

const PAGES: u64 = 2048;

#[test]
fn before_linux_6_7_private_pages_are_found_by_reading_the_page_map() {
    // The denial applies to this thread, and so to the threads of the handlers that it starts.
    deny(&["pagemap-scan".parse().expect("a denial")]).expect("deny");
    for (kind, area) in [Area::layered(PAGES), Area::anonymous(PAGES)].into_iter().enumerate() {
        area.warm(&mut (kind as u64));
        assert!(!area.source().own_pages().expect("scan").is_empty());
        let mut met = Met::default();
        (0..6).for_each(|round| capture(&area, kind as u64 * 6 + round, &mut met));
        met.check();
    }
}

/// A userfaultfd as in kernels before 6.4, which protect no page that was never populated.
fn without_unpopulated() -> Userfaultfd {
    const UFFDIO_API: u64 = 0xC018_AA3F;
    const PAGEFAULT_FLAG_WP: u64 = 1;
    const WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
    // SAFETY: a system call with an integer argument, which makes a descriptor without another owner.
    let fd = unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK);
        assert!(fd >= 0, "userfaultfd: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd as i32)
    };
    let mut api = [0xAAu64, PAGEFAULT_FLAG_WP | WP_HUGETLBFS_SHMEM, 0];
    // SAFETY: `api` has the layout of struct uffdio_api and outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &mut api) };
    assert_eq!(result, 0, "UFFDIO_API: {}", std::io::Error::last_os_error());
    Userfaultfd::adopt(fd).expect("a userfaultfd")
}

/// The older kernel protects all pages of memory over a file, but not of anonymous memory.
#[test]
fn before_linux_6_4_memory_over_a_file_is_captured_like_any_other() {
    let mut area = Area::layered(PAGES);
    area.target.uffd = Arc::new(without_unpopulated());
    capture_thirds(&area);
    let mut met = Met::default();
    (0..6).for_each(|round| capture(&area, round, &mut met));
    met.check();
}

#[test]
fn before_linux_6_4_anonymous_memory_is_captured_like_any_other() {
    let mut area = Area::anonymous(PAGES);
    area.target.uffd = Arc::new(without_unpopulated());
    capture_thirds(&area);
}
