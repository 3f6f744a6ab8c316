//! What the kernel answers to who fills pages, each as it really comes: partial progress, pages that are there, memory that is
//! being given back, ranges that are gone, and the events that go with it.

use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::maps::{self, FileId};
use forkd_linux_sys::memfd::{self, Mapping};
use forkd_linux_sys::sparse;
use forkd_linux_sys::uffd::{Event, Filled, Modes, Range, Stop, Userfaultfd};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const PAGES: usize = 8;

fn registered(minor: bool) -> (Userfaultfd, Mapping, impl Fn(usize, usize) -> Range) {
    let uffd = Userfaultfd::create_for_pages().expect("the right to it");
    let area = Mapping::anonymous(PAGES * PAGE_SIZE).expect("memory");
    let start = area.target(0, 1) as u64;
    let pages = move |from: usize, to: usize| Range {
        start: start + (from * PAGE_SIZE) as u64,
        end: start + (to * PAGE_SIZE) as u64,
    };
    if minor {
        // Every other page of the file is a hole.
        let file = memfd::create(c"test", (PAGES * PAGE_SIZE) as u64).expect("a memfd");
        let shared = Mapping::read_write(&file, PAGES * PAGE_SIZE).expect("a mapping");
        (0..PAGES)
            .step_by(2)
            .for_each(|page| shared.write(page * PAGE_SIZE, &[page as u8 + 1]));
        // SAFETY: replaces the pages of a mapping that was just made and that nobody else knows.
        unsafe { memfd::map_private_over(start, (PAGES * PAGE_SIZE) as u64, file.as_fd(), 0) }.expect("mapped over");
        let mapped = maps::mappings(std::process::id() as i32, pages(0, PAGES)).expect("own mappings");
        let found: Vec<_> = mapped.iter().map(|m| (m.range, m.private, m.file, m.offset)).collect();
        assert_eq!(found, [(pages(0, PAGES), true, FileId::of(&file).expect("an id"), 0)]);
        let data = sparse::data_ranges(&file, (PAGES * PAGE_SIZE) as u64).expect("its extents");
        assert_eq!(data.len(), PAGES / 2);
    }
    let modes = Modes {
        missing: true,
        minor,
        write_protect: false,
    };
    uffd.register(pages(0, PAGES), modes).expect("registered");
    (uffd, area, pages)
}

fn stopped(bytes: usize, stop: Stop) -> Filled {
    Filled {
        bytes: bytes as u64,
        stop: Some(stop),
    }
}

#[test]
fn a_copy_says_how_far_it_came_and_why_not_further() {
    let (uffd, area, pages) = registered(false);
    let bytes = vec![7u8; 4 * PAGE_SIZE];
    let whole = Filled {
        bytes: PAGE_SIZE as u64,
        stop: None,
    };
    assert_eq!(
        uffd.copy(pages(2, 3).start, &bytes[..PAGE_SIZE]).expect("copied"),
        whole
    );
    assert_eq!(
        uffd.copy(pages(0, 4).start, &bytes).expect("in part"),
        stopped(2 * PAGE_SIZE, Stop::Cut)
    );
    assert_eq!(
        uffd.copy(pages(2, 4).start, &bytes).expect("not at all"),
        stopped(0, Stop::Present)
    );
    assert_eq!(uffd.zero(pages(2, 3)).expect("not at all"), stopped(0, Stop::Present));
    assert_eq!(uffd.zero(pages(4, 5)).expect("zeroed"), whole);
    assert_eq!(area.bytes(0, 3 * PAGE_SIZE), &bytes[..3 * PAGE_SIZE]);
    assert_eq!(area.bytes(4 * PAGE_SIZE, 8), [0; 8]);
    uffd.unregister(pages(0, PAGES)).expect("unregistered");
    assert_eq!(
        uffd.copy(pages(5, 6).start, &bytes[..PAGE_SIZE]).expect("not at all"),
        stopped(0, Stop::NoRange)
    );
    assert!(uffd.is_alive() && !uffd.is_changing());
    assert_eq!(area.bytes(5 * PAGE_SIZE, 8), [0; 8], "the kernel's own affair again");
}

#[test]
fn pages_of_the_file_under_a_mapping_are_mapped_and_holes_are_told() {
    let (uffd, area, pages) = registered(true);
    assert_eq!(
        uffd.map_present(pages(0, 4)).expect("in part"),
        stopped(PAGE_SIZE, Stop::Cut)
    );
    assert_eq!(
        uffd.map_present(pages(0, 1)).expect("not at all"),
        stopped(0, Stop::Present)
    );
    assert_eq!(
        uffd.map_present(pages(1, 2)).expect("not at all"),
        stopped(0, Stop::NoPage)
    );
    uffd.zero(pages(1, 2)).expect("zeroed");
    uffd.zero(pages(2, 3)).expect("zeroed, whatever the file has");
    assert_eq!([0, 1, 2].map(|page| area.bytes(page * PAGE_SIZE, 1)[0]), [1, 0, 0]);
}

#[test]
fn nothing_can_be_filled_until_it_is_read_that_memory_is_given_back() {
    let (uffd, area, pages) = registered(false);
    uffd.zero(pages(0, 2)).expect("zeroed");
    std::thread::scope(|scope| {
        let giving = scope.spawn(|| area.give_back(0, PAGE_SIZE));
        let until = Instant::now() + Duration::from_secs(20);
        while !uffd.is_changing() {
            assert!(Instant::now() < until, "it begins");
            std::thread::yield_now();
        }
        assert_eq!(
            uffd.zero(pages(6, 7)).expect("not at all"),
            stopped(0, Stop::Changing),
            "another range"
        );
        let mut events = Vec::new();
        while uffd.read_events(&mut events).expect("readable") == 0 {
            std::thread::yield_now();
        }
        assert!(
            matches!(events[..], [Event::Remove(range)] if range == pages(0, 1)),
            "{events:?}"
        );
        giving.join().expect("no panic").expect("given back");
    });
    assert_eq!(uffd.zero(pages(0, 1)).expect("it is gone").stop, None);
}

#[test]
fn a_fault_tells_where_and_of_what_kind() {
    let (uffd, area, pages) = registered(true);
    let next = || {
        let mut events = Vec::new();
        let until = Instant::now() + Duration::from_secs(20);
        while uffd.read_events(&mut events).expect("readable") == 0 {
            assert!(Instant::now() < until, "it comes");
            std::thread::yield_now();
        }
        events
    };
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| area.bytes(100, 1)[0]);
        let events = next();
        let wanted = pages(0, 1).start;
        assert!(
            matches!(events[..], [Event::Fault { address, write: false, minor: true, protected: false }] if address == wanted),
            "{events:?}"
        );
        uffd.map_present(pages(0, 1)).expect("mapped");
        reading.join().expect("no panic");
        let writing = scope.spawn(|| area.write(PAGE_SIZE + 9, &[1]));
        let events = next();
        let wanted = pages(1, 2).start;
        assert!(
            matches!(events[..], [Event::Fault { address, write: true, minor: false, .. }] if address == wanted),
            "{events:?}"
        );
        uffd.zero(pages(1, 2)).expect("zeroed");
        writing.join().expect("no panic");
    });
}
