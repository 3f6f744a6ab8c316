//! What this crate does on a host that lacks what newer kernels or privileged users have: a filter denies it to a thread.

use forkd_deny::deny;
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::{self, Mapping};
use forkd_linux_sys::pagemap::{self, Kind, Pagemap};
use forkd_linux_sys::uffd::{self, Range, Userfaultfd};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};

/// Runs `body` in a thread that is denied what is named.
fn without<T: Send>(denied: &[&str], body: impl FnOnce() -> T + Send) -> T {
    let denials: Vec<_> = denied.iter().map(|text| text.parse().expect("a denial")).collect();
    let denied = || {
        deny(&denials).expect("deny");
        body()
    };
    std::thread::scope(|scope| scope.spawn(denied).join()).expect("no panic")
}

#[test]
fn pages_are_listed_alike_before_linux_6_7() {
    const PAGES: usize = 3000;
    let len = PAGES * PAGE_SIZE;
    let file = memfd::create(c"test", len as u64).expect("memfd");
    let area = Mapping::anonymous(len).expect("map");
    let start = area.target(0, len) as u64;
    let half = len as u64 / 2;
    // SAFETY: replaces the pages of a mapping that was just made and that nobody else knows.
    unsafe { memfd::map_private_over(start, half, file.as_fd(), 0) }.expect("map over");
    for page in 0..PAGES {
        match page % 5 {
            0 => area.write(page * PAGE_SIZE, &[1]),
            1 => assert_eq!(std::hint::black_box(area.bytes(page * PAGE_SIZE, 1)), [0]),
            _ => {}
        }
    }
    let range = Range {
        start,
        end: start + len as u64,
    };
    let map = Pagemap::open(std::process::id() as i32).expect("own page map");
    for kind in [Kind::Private, Kind::Populated] {
        let found = map.scan(range, kind).expect("scan");
        assert!(!found.is_empty(), "{kind:?}");
        let read = without(&["pagemap-scan"], || map.scan(range, kind));
        assert!(read.expect("scan") == found, "{kind:?}");
        // Else the reading above would not have been put to use.
        let error = without(&["pagemap-scan:EIO"], || map.scan(range, kind)).expect_err("denied");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
}

#[test]
fn how_pages_can_be_listed_is_found_by_trying() {
    let errno = |result: io::Result<()>| result.expect_err("denied").raw_os_error();
    pagemap::probe().expect("here");
    without(&["pagemap-scan"], pagemap::probe).expect("by reading");
    assert_eq!(
        errno(without(&["pagemap-scan"], pagemap::probe_ioctl)),
        Some(libc::ENOTTY)
    );
    assert_eq!(errno(without(&["pagemap-scan:EIO"], pagemap::probe)), Some(libc::EIO));
}

#[test]
fn a_kernel_without_userfaultfd_is_told_from_a_user_without_the_right_to_it() {
    for (denied, errno) in [
        (&["userfaultfd:ENOSYS"][..], libc::ENOSYS),
        (&["userfaultfd:EPERM", "userfaultfd-device:EPERM"], libc::EPERM),
    ] {
        let error = without(denied, Userfaultfd::create).expect_err("denied");
        assert_eq!(error.raw_os_error(), Some(errno), "{denied:?}");
        let reason = without(denied, uffd::probe).expect_err("denied").to_string();
        let wanted = format!("creating a userfaultfd: {}", io::Error::from_raw_os_error(errno));
        assert_eq!(reason, wanted);
    }
}

#[test]
fn who_may_open_the_device_needs_no_other_right() {
    let device = std::fs::File::options().read(true).write(true).open("/dev/userfaultfd");
    if let Err(error) = device {
        // Not by `eprintln`, which the test runner keeps to itself.
        let _ = writeln!(io::stderr(), "skipped: /dev/userfaultfd cannot be opened here: {error}");
        return;
    }
    without(&["userfaultfd:EPERM"], uffd::probe).expect("it can do all that a live branch needs");
}

#[test]
fn a_userfaultfd_that_blocks_is_read_without_waiting_before_linux_6_10() {
    without(&["preadv2:EOPNOTSUPP"], || {
        let uffd = Userfaultfd::create().expect("this test needs the right to it: run it as root");
        // SAFETY: sets a flag of a descriptor that lives.
        assert_eq!(unsafe { libc::fcntl(uffd.as_fd().as_raw_fd(), libc::F_SETFL, 0) }, 0);
        for _ in 0..3 {
            assert_eq!(uffd.read_faults(&mut Vec::new(), 8).expect("nothing to read"), 0);
        }
    });
}
