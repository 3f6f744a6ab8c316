//! Shared memory in several regions: the caller lists the pages that count, and each page is found in its region.

use crate::{Listing, Region, Run, Sink, Source, Target, WpBranch};
use forkd_linux_sys::memfd::{self, Mapping};
use forkd_linux_sys::uffd::{Range, Userfaultfd};
use forkd_linux_sys::{PAGE_SIZE, sparse};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Pages of the three regions. No region ends where a chunk or a step does.
const PAGES: [u64; 3] = [301, 77, 640];
const TOTAL: u64 = PAGES[0] + PAGES[1] + PAGES[2];
const SIZE: u64 = PAGE_SIZE as u64;

struct Memory {
    file: File,
    parts: Vec<Mapping>,
    target: Target,
}

#[derive(Debug)]
struct Populated(File);

impl Listing for Populated {
    fn pages(&self) -> io::Result<Vec<Range>> {
        sparse::data_ranges(&self.0, TOTAL * SIZE)
    }
}

struct Image(File);

impl Sink for Image {
    fn put(&self, run: Run, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, run.page * SIZE)
    }
}

impl Memory {
    /// Every third page has content. The others are holes.
    fn new() -> Memory {
        let file = memfd::create(c"test-memory", TOTAL * SIZE).expect("memfd");
        for page in (0..TOTAL).step_by(3) {
            file.write_all_at(&[page as u8 | 1; PAGE_SIZE], page * SIZE)
                .expect("write");
        }
        let mut first = 0;
        let (mut parts, mut regions) = (Vec::new(), Vec::new());
        for pages in PAGES {
            let part = Mapping::part(&file, first * SIZE, (pages * SIZE) as usize, true).expect("map");
            let start = part.target(0, 0) as u64;
            let memory = Range {
                start,
                end: start + pages * SIZE,
            };
            regions.push(Region { memory, page: first });
            parts.push(part);
            first += pages;
        }
        // The regions are passed in an order that is not the order of their pages.
        regions.rotate_left(1);
        let listing = Populated(file.try_clone().expect("a duplicate"));
        let source = Source::of_regions(std::process::id() as i32, regions, Some(Arc::new(listing)));
        let uffd = Userfaultfd::create().expect("this test needs userfaultfd: run it as root");
        let uffd = Arc::new(uffd);
        Memory {
            file,
            parts,
            target: Target { source, uffd },
        }
    }

    fn word(&self, page: u64, word: u64) -> &AtomicU64 {
        let mut page = page;
        for (part, pages) in self.parts.iter().zip(PAGES) {
            if page < pages {
                return part.word((page * SIZE + word * 8) as usize);
            }
            page -= pages;
        }
        panic!("there is no such page");
    }

    fn bytes(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; (TOTAL * SIZE) as usize];
        file.read_exact_at(&mut bytes, 0).expect("read");
        bytes
    }
}

const RUN: u8 = 0;
const REST: u8 = 1;
const RESTS: u8 = 2;
const END: u8 = 3;

/// Writes to random pages until told to end.
fn write(memory: &Memory, state: &AtomicU8, mut seed: u64) {
    let mut next = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    loop {
        match state.load(Ordering::Acquire) {
            END => return,
            RUN => memory
                .word(next(TOTAL), next(512))
                .store(next(u64::MAX), Ordering::Relaxed),
            _ => {
                let _ = state.compare_exchange(REST, RESTS, Ordering::AcqRel, Ordering::Acquire);
                std::thread::yield_now();
            }
        }
    }
}

#[test]
fn several_shared_regions_are_captured_at_one_instant() {
    let memory = Memory::new();
    let state = AtomicU8::new(RUN);
    std::thread::scope(|scope| {
        scope.spawn(|| write(&memory, &state, 7));
        for round in 0..20 {
            let image = Arc::new(Image(memfd::create(c"image", TOTAL * SIZE).expect("memfd")));
            let mut branch = WpBranch::arm(memory.target.clone(), image.clone()).expect("arm");
            state.store(REST, Ordering::Release);
            super::storm::await_that("the writer rests", || state.load(Ordering::Acquire) == RESTS);
            branch.take().expect("take");
            let truth = Memory::bytes(&memory.file);
            state.store(RUN, Ordering::Release);
            branch.copy(|| false).expect("copy");
            branch.finish().expect("finish");
            assert!(Memory::bytes(&image.0) == truth, "round {round}");
        }
        state.store(END, Ordering::Release);
    });
}

#[test]
fn a_run_across_regions_is_a_piece_of_each() {
    let memory = Memory::new();
    let pieces: Vec<Range> = memory.target.source.pages(PAGES[0] - 2, PAGES[1] + 3).collect();
    let lengths: Vec<u64> = pieces.iter().map(|piece| piece.len() / SIZE).collect();
    assert_eq!(lengths, [2, PAGES[1], 1]);
    assert_eq!(
        memory.target.source.page_of(pieces[2].start).expect("inside"),
        PAGES[0] + PAGES[1]
    );
    assert!(memory.target.source.page_of(8).is_err());
}
