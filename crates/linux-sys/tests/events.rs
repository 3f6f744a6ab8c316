//! Events of an address space that a process makes on purpose, to harm who holds its userfaultfd. A file of its own, and so a
//! process of its own: descriptors are counted.

use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::Mapping;
use forkd_linux_sys::uffd::{CHANGING_MAX, Range, Userfaultfd};
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn range_of(memory: &Mapping) -> Range {
    let start = memory.target(0, memory.len()) as u64;
    Range {
        start,
        end: start + memory.len() as u64,
    }
}

fn userfaultfds() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").expect("own descriptors");
    let targets = entries
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets
        .filter(|target| target == Path::new("anon_inode:[userfaultfd]"))
        .count()
}

fn forks_of_the_process_leave_no_descriptor_behind() {
    let memory = Mapping::anonymous(PAGE_SIZE).expect("memory");
    let uffd = Userfaultfd::create_for_writes_and_forks().expect("this test needs the right to it: run it as root");
    uffd.register_write_protect(range_of(&memory)).expect("registered");
    let before = userfaultfds();
    std::thread::scope(|scope| {
        let child = scope.spawn(|| {
            // SAFETY: the child makes one system call, and ends without running anything of the parent's.
            match unsafe { libc::fork() } {
                // SAFETY: ends the child at once.
                0 => unsafe { libc::_exit(0) },
                // SAFETY: waits for our own child.
                pid => unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) },
            }
        });
        // The fork waits until its event has been read.
        let until = Instant::now() + PATIENCE;
        while !child.is_finished() {
            assert!(Instant::now() < until, "the fork is over");
            assert_eq!(uffd.read_faults(&mut Vec::new(), 8).expect("read"), 0);
        }
    });
    assert_eq!(userfaultfds(), before);
}

fn a_change_that_nobody_reads_of_is_waited_for_with_an_end() {
    let memory = Mapping::anonymous(16 * PAGE_SIZE).expect("memory");
    let uffd = Userfaultfd::create_for_writes_and_removals().expect("a userfaultfd");
    let range = range_of(&memory);
    uffd.register_write_protect(range).expect("registered");
    std::thread::scope(|scope| {
        // The call waits until the event has been read.
        scope.spawn(|| memory.give_back(0, PAGE_SIZE).expect("memory that is given back"));
        let until = Instant::now() + PATIENCE;
        let (error, took) = loop {
            let start = Instant::now();
            match uffd.protect(range) {
                // The removal has not begun yet.
                Ok(()) => assert!(Instant::now() < until, "the change is noticed"),
                Err(error) => break (error, start.elapsed()),
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
        assert!(took >= CHANGING_MAX && took < PATIENCE, "{took:?}");
        uffd.read_events(&mut Vec::new()).expect("read");
    });
    uffd.protect(range).expect("nothing changes any more");
}

#[test]
fn a_process_that_makes_events_on_purpose_harms_nobody() {
    // One after the other, since both count or time what the process has.
    forks_of_the_process_leave_no_descriptor_behind();
    a_change_that_nobody_reads_of_is_waited_for_with_an_end();
}
