//! Captures that end early: after any failure the writers continue, nothing stays protected, and the reason is reported.

use super::area::Area;
use super::sinks::{Image, given_by_handler};
use super::storm::{assert_writable, await_that, storm};
use crate::{CaptureError, Listing, Region, Run, Sink, Source, Target, WpBranch};
use forkd_deny::deny;
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::fds;
use forkd_linux_sys::uffd::{Modes, Range, Userfaultfd};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PAGES: u64 = 2048;

#[test]
fn a_branch_that_is_given_up_at_any_point_lets_the_writers_go() {
    for step in 0..4 {
        let area = Area::layered(PAGES);
        area.warm(&mut 7);
        storm(&area, step, |storm| {
            let mut branch = WpBranch::arm(area.target.clone(), Image::new(&area)).expect("arm");
            if step > 0 {
                storm.stop(|| branch.take().expect("take"));
            }
            if step > 1 {
                let cancelled = AtomicU64::new(0);
                let error = branch
                    .copy(|| cancelled.fetch_add(1, Ordering::Relaxed) >= step)
                    .expect_err("cancelled");
                assert!(matches!(error, CaptureError::Cancelled));
            }
            drop(branch);
            assert_eq!(area.protected_pages(), 0);
            storm.wait_for_writes(PAGES * 4);
        });
    }
}

/// A sink with room for this many pages, of those from the bulk copy or of those from the handler.
struct Full {
    image: Arc<Image>,
    room: AtomicU64,
    handlers: bool,
    failed: AtomicBool,
}

impl Full {
    fn new(area: &Area, room: u64, handlers: bool) -> Arc<Full> {
        Arc::new(Full {
            image: Image::new(area),
            room: AtomicU64::new(room),
            handlers,
            failed: AtomicBool::new(false),
        })
    }
}

impl Sink for Full {
    fn put(&self, run: Run, bytes: &[u8]) -> io::Result<()> {
        if given_by_handler() == self.handlers {
            let take = |room: u64| room.checked_sub(run.pages);
            if self
                .room
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, take)
                .is_err()
            {
                self.failed.store(true, Ordering::Release);
                return Err(io::Error::from_raw_os_error(libc::ENOMEM));
            }
        }
        self.image.put(run, bytes)
    }
}

#[test]
fn a_sink_that_is_full_ends_the_bulk_copy_with_its_reason() {
    for (seed, room) in [0, 1, 33, 700].into_iter().enumerate() {
        let area = Area::layered(PAGES);
        (0..PAGES).for_each(|page| area.write(page, 0, &[7]));
        storm(&area, seed as u64, |storm| {
            let mut branch = WpBranch::arm(area.target.clone(), Full::new(&area, room, false)).expect("arm");
            // Copy while the writers are stopped: otherwise the handler could have all of the pages first.
            storm.stop(|| {
                branch.take().expect("take");
                assert_full(&branch.copy(|| false).expect_err("no room"));
                assert!(area.protected_pages() > 0, "it was given up half-way");
            });
            storm.wait_for_writes(PAGES);
            drop(branch);
            assert_eq!(area.protected_pages(), 0);
            storm.wait_for_writes(PAGES * 4);
        });
    }
}

#[test]
fn a_sink_that_is_full_for_the_fault_handler_holds_up_no_writer_and_fails_the_copy() {
    for (seed, room) in [0, 1, 100].into_iter().enumerate() {
        let area = Area::layered(PAGES);
        (0..PAGES).for_each(|page| area.write(page, 0, &[7]));
        storm(&area, seed as u64, |storm| {
            let sink = Full::new(&area, room, true);
            let mut branch = WpBranch::arm(area.target.clone(), sink.clone()).expect("arm");
            storm.stop(|| branch.take().expect("take"));
            await_that("the sink is full", || sink.failed.load(Ordering::Acquire));
            // No thread copies, and yet every page can be written.
            storm.wait_for_writes(PAGES * 4);
            assert_full(&branch.copy(|| false).expect_err("a page is lost"));
            drop(branch);
            assert_eq!(area.protected_pages(), 0);
            storm.wait_for_writes(PAGES * 4);
        });
    }
}

fn assert_full(error: &CaptureError) {
    assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
    let text = error.to_string();
    assert!(
        text.starts_with("keeping ") && text.contains("Cannot allocate memory"),
        "{text}"
    );
}

#[test]
fn memory_that_cannot_be_read_by_the_bulk_copy_is_its_error() {
    let area = Area::layered(PAGES);
    area.warm(&mut 5);
    storm(&area, 5, |storm| {
        let mut branch = WpBranch::arm(area.target.clone(), Image::new(&area)).expect("arm");
        storm.stop(|| {
            branch.take().expect("take");
            // Copy in a new thread: the handler's may still read.
            let copied = std::thread::scope(|scope| {
                let copy = || {
                    deny(&["pread64:EPERM".parse().expect("a denial")]).expect("deny");
                    branch.copy(|| false)
                };
                scope.spawn(copy).join().expect("no panic")
            });
            assert_unreadable(&copied.expect_err("unreadable"), "reading the memory of process");
        });
        drop(branch);
        assert_eq!(area.protected_pages(), 0);
        storm.wait_for_writes(PAGES * 4);
    });
}

/// A listing of every page.
#[derive(Debug)]
struct All;

impl Listing for All {
    fn pages(&self) -> io::Result<Vec<Range>> {
        let end = PAGES * PAGE_SIZE as u64;
        Ok(vec![Range { start: 0, end }])
    }
}

#[test]
fn memory_that_cannot_be_read_by_the_fault_handler_holds_up_no_writer_and_fails_the_copy() {
    let area = Area::layered(PAGES);
    (0..PAGES).for_each(|page| area.write(page, 0, &[7]));
    // Listing pages by the page map uses the call that is denied.
    let mut target = area.target.clone();
    let whole = Region {
        memory: area.range(),
        page: 0,
    };
    target.source = Source::of_regions(target.source.pid, vec![whole], Some(Arc::new(All)));
    let armed = std::thread::scope(|scope| {
        let arm = || {
            deny(&["pread64:EPERM".parse().expect("a denial")]).expect("deny");
            WpBranch::arm(target.clone(), Image::new(&area))
        };
        scope.spawn(arm).join().expect("no panic")
    });
    let mut branch = armed.expect("arm");
    branch.take().expect("take");
    // The page that cannot be read, and pages that are no longer needed.
    [3, 4, PAGES - 1]
        .into_iter()
        .for_each(|page| assert_writable(&area, page));
    assert_unreadable(
        &branch.copy(|| false).expect_err("a page is lost"),
        "serving a write fault",
    );
    drop(branch);
    assert_eq!(area.protected_pages(), 0);
}

fn assert_unreadable(error: &CaptureError, step: &str) {
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    assert!(error.to_string().starts_with(step), "{error}");
}

/// More time than anything takes here.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_source_that_makes_its_userfaultfd_block_fails_the_capture_and_holds_up_nobody() {
    for after_the_instant in [false, true] {
        let area = Area::layered(PAGES);
        (0..PAGES).for_each(|page| area.write(page, 0, &[7]));
        let start = Instant::now();
        let mut branch = WpBranch::arm(area.target.clone(), Image::new(&area)).expect("arm");
        if after_the_instant {
            branch.take().expect("take");
        }
        let uffd = area.target.uffd.as_fd().as_raw_fd();
        // SAFETY: sets a flag of a descriptor that lives.
        assert_eq!(unsafe { libc::fcntl(uffd, libc::F_SETFL, 0) }, 0);
        // The next event reveals that. The write may block until the capture is aborted, so the test does not wait for it.
        std::thread::scope(|scope| {
            scope.spawn(|| area.write(3, 0, &[8]));
            await_that("the capture fails", || branch.check().is_err());
            let failed = if after_the_instant {
                branch.copy(|| false)
            } else {
                branch.settle()
            };
            let error = failed.expect_err("it has failed");
            assert!(error.to_string().contains("made to block"), "{error}");
            drop(branch);
        });
        assert!(start.elapsed() < PATIENCE);
        assert_eq!(area.protected_pages(), 0);
    }
}

#[test]
fn memory_that_the_source_withholds_fails_the_capture_and_is_not_waited_for() {
    let area = Area::anonymous(PAGES);
    (0..PAGES).for_each(|page| area.write(page, 0, &[7]));
    let mut branch = WpBranch::arm(area.target.clone(), Image::new(&area)).expect("arm");
    branch.take().expect("take");
    // No thread serves missing pages, and these belong to the set.
    let modes = Modes {
        missing: true,
        minor: false,
        write_protect: true,
    };
    area.target.uffd.register(area.range(), modes).expect("registered anew");
    area.advise(libc::MADV_DONTNEED);
    let start = Instant::now();
    let error = branch.copy(|| false).expect_err("withheld");
    assert!(error.to_string().contains("withholds memory"), "{error}");
    drop(branch);
    assert!(start.elapsed() < PATIENCE);
}

/// A userfaultfd of a process that has ended, and that process, which has not been waited for yet.
fn of_an_ended_process() -> (Target, i32) {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    // SAFETY: the child makes system calls only, and ends without running anything of the parent's.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let sent = Userfaultfd::create().and_then(|uffd| fds::send_with_fds(&theirs, &[0], &[uffd.as_fd()]));
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(sent.is_err().into()) };
    }
    let mut received = Vec::new();
    fds::receive_with_fds(&ours, &mut [0u8; 1], &mut received).expect("the child's userfaultfd");
    // SAFETY: all zeros is a valid value that the call overwrites.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: waits for a child of ours, and leaves it to be waited for once more.
    let ended = unsafe { libc::waitid(libc::P_PID, pid as u32, &mut info, libc::WEXITED | libc::WNOWAIT) };
    assert_eq!(ended, 0, "{}", io::Error::last_os_error());
    let range = Range {
        start: 1 << 30,
        end: (1 << 30) + 4096,
    };
    let uffd = Arc::new(Userfaultfd::adopt(received.remove(0)).expect("a userfaultfd"));
    let source = Source::new(pid, range);
    (Target { source, uffd }, pid)
}

#[test]
fn a_process_that_has_ended_is_told_as_that_and_not_as_a_lack_of_memory() {
    let (target, pid) = of_an_ended_process();
    let image = Image::new(&Area::anonymous(1));
    let error = WpBranch::arm(target, image).err().expect("nothing is left to protect");
    assert_eq!(error.raw_os_error(), Some(libc::ESRCH), "{error}");
    // SAFETY: takes leave of our own child.
    assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }, pid);
}
