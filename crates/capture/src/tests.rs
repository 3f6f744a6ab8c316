//! The guarantee of a capture, held against a copy made at its instant: real userfaultfd, real page map, writers at full
//! speed in this process. Each round prints its seed when it fails.

use crate::*;
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::{self, Mapping};
use forkd_linux_sys::uffd::{Range, Userfaultfd};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

const PAGES: u64 = 2048;
const WRITERS: u64 = 3;

fn random(seed: &mut u64, below: u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % below
}

/// Private memory over a sealed base, as a sandbox has it.
struct Area {
    memory: Mapping,
    base: Mapping,
    target: Target,
}

impl Area {
    fn new() -> Area {
        let len = PAGES as usize * PAGE_SIZE;
        let file = memfd::create(c"test-base", len as u64).expect("memfd");
        let writable = Mapping::read_write(&file, len).expect("map");
        // Every third page stays a hole: memory that no layer holds.
        (0..PAGES)
            .filter(|page| page % 3 != 0)
            .for_each(|page| writable.write(page as usize * PAGE_SIZE, &page.to_le_bytes()));
        drop(writable);
        memfd::seal(&file).expect("seal");
        let memory = Mapping::anonymous(len).expect("map");
        let start = memory.target(0, len) as u64;
        // SAFETY: replaces the pages of a mapping that was just made and that nobody else knows.
        unsafe { memfd::map_private_over(start, len as u64, file.as_fd(), 0) }.expect("map over");
        let range = Range {
            start,
            end: start + len as u64,
        };
        let uffd = Arc::new(Userfaultfd::create().expect("this test needs userfaultfd: run it as root"));
        let source = Source {
            pid: std::process::id() as i32,
            range,
        };
        Area {
            memory,
            base: Mapping::read_only(&file, len).expect("map"),
            target: Target { source, uffd },
        }
    }

    fn page(memory: &Mapping, page: u64) -> &[u8] {
        memory.bytes(page as usize * PAGE_SIZE, PAGE_SIZE)
    }

    /// Writes like a guest does before a branch: some pages, some of them with what is there anyway, some with zeros.
    fn warm(&self, seed: &mut u64) {
        for _ in 0..random(seed, PAGES) {
            let page = random(seed, PAGES);
            let at = page as usize * PAGE_SIZE;
            match random(seed, 4) {
                0 => self.memory.write(at, &[0u8; PAGE_SIZE]),
                1 => self.memory.write(at, Self::page(&self.base, page)),
                _ => self
                    .memory
                    .write(at + random(seed, 4000) as usize, &random(seed, u64::MAX).to_le_bytes()),
            }
        }
    }
}

/// Keeps every page at its own place, and counts how often it was given each.
struct Image {
    memory: Mapping,
    puts: Vec<AtomicU64>,
}

impl Image {
    fn new() -> Arc<Image> {
        Arc::new(Image {
            memory: Mapping::anonymous(PAGES as usize * PAGE_SIZE).expect("map"),
            puts: std::iter::repeat_with(AtomicU64::default)
                .take(PAGES as usize)
                .collect(),
        })
    }

    /// The bytes that a page had at the instant: those that were put, else those of the base.
    fn page<'a>(&'a self, base: &'a Mapping, page: u64) -> &'a [u8] {
        match self.puts[page as usize].load(Ordering::Acquire) {
            0 => Area::page(base, page),
            1 => Area::page(&self.memory, page),
            puts => panic!("page {page} was put {puts} times"),
        }
    }
}

impl Sink for Image {
    fn put(&self, run: Run, bytes: &[u8]) -> std::io::Result<()> {
        assert_eq!(bytes.len() as u64, run.pages * PAGE_SIZE as u64);
        self.memory.write(run.page as usize * PAGE_SIZE, bytes);
        (run.page..run.page + run.pages).for_each(|page| {
            self.puts[page as usize].fetch_add(1, Ordering::AcqRel);
        });
        Ok(())
    }
}

/// Writers that can be stopped at an instant, as a VM's processors can.
#[derive(Default)]
struct Storm {
    pause: AtomicBool,
    end: AtomicBool,
    writes: AtomicU64,
}

impl Storm {
    fn write(&self, memory: &Mapping, mut seed: u64, stopped: &Barrier) {
        while !self.end.load(Ordering::Relaxed) {
            if self.pause.load(Ordering::Acquire) {
                stopped.wait();
                stopped.wait();
                continue;
            }
            let at = random(&mut seed, PAGES) as usize * PAGE_SIZE + random(&mut seed, 500) as usize * 8;
            memory.write(at, &random(&mut seed, u64::MAX).to_le_bytes());
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Runs `instant` while no writer writes.
    fn stop<T>(&self, stopped: &Barrier, instant: impl FnOnce() -> T) -> T {
        self.pause.store(true, Ordering::Release);
        stopped.wait();
        let result = instant();
        self.pause.store(false, Ordering::Release);
        stopped.wait();
        result
    }

    /// Waits until the writers have got on.
    fn wait_for_writes(&self, count: u64) {
        let before = self.writes.load(Ordering::Relaxed);
        while self.writes.load(Ordering::Relaxed) < before + count {
            std::thread::yield_now();
        }
    }
}

#[test]
fn the_sink_holds_every_private_page_as_it_was_at_the_instant() {
    let (mut faults, mut touched) = (0, 0);
    for seed in 0..24u64 {
        let area = Area::new();
        area.warm(&mut seed.clone());
        let storm = Storm::default();
        let stopped = Barrier::new(WRITERS as usize + 1);
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (memory, storm, stopped) = (&area.memory, &storm, &stopped);
                scope.spawn(move || storm.write(memory, seed * 100 + writer, stopped));
            }
            let sink = Image::new();
            let mut branch = WpBranch::arm(area.target.clone(), sink.clone()).expect("arm");
            storm.wait_for_writes(50);
            let truth = storm.stop(&stopped, || {
                branch.take().expect("take");
                area.memory.bytes(0, PAGES as usize * PAGE_SIZE).to_vec()
            });
            storm.wait_for_writes(if seed % 2 == 0 { 0 } else { 200 });
            branch.copy(|| false).expect("copy");
            let (set, statistics) = branch.finish().expect("finish");
            faults += statistics.pages_by_fault;
            touched += statistics.touched_pages + u64::from(statistics.rounds);
            assert_eq!(statistics.pages_by_copy + statistics.pages_by_fault, set.len());
            // Nothing is protected any more, so that the writers go on at full speed.
            storm.wait_for_writes(1000);
            storm.end.store(true, Ordering::Relaxed);
            for page in 0..PAGES {
                let captured = sink.page(&area.base, page);
                let wanted = &truth[page as usize * PAGE_SIZE..][..PAGE_SIZE];
                assert!(captured == wanted, "page {page} differs, seed {seed}");
            }
        });
    }
    assert!(
        faults > 0 && touched > 0,
        "the writers met the capture: {faults} faults, {touched} touched pages"
    );
}

#[test]
fn a_branch_that_is_given_up_at_any_point_lets_the_writers_go() {
    for step in 0..4 {
        let area = Area::new();
        area.warm(&mut 7);
        let storm = Storm::default();
        let stopped = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| storm.write(&area.memory, step, &stopped));
            let mut branch = WpBranch::arm(area.target.clone(), Image::new()).expect("arm");
            if step > 0 {
                storm.stop(&stopped, || branch.take().expect("take"));
            }
            if step > 1 {
                let cancelled = AtomicU64::new(0);
                let error = branch
                    .copy(|| cancelled.fetch_add(1, Ordering::Relaxed) >= step)
                    .expect_err("cancelled");
                assert!(matches!(error, CaptureError::Cancelled));
            }
            drop(branch);
            storm.wait_for_writes(PAGES * 4);
            storm.end.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn one_source_can_be_captured_again_and_again() {
    let area = Area::new();
    area.warm(&mut 3);
    for round in 0..10u8 {
        let sink = Image::new();
        let mut branch = WpBranch::arm(area.target.clone(), sink.clone()).expect("arm");
        area.memory.write(usize::from(round) * PAGE_SIZE, &[round + 1]);
        branch.take().expect("take");
        branch.copy(|| false).expect("copy");
        let (set, _) = branch.finish().expect("finish");
        assert!(set.rank(round.into()).is_some(), "the page was written");
        assert_eq!(sink.page(&area.base, round.into())[0], round + 1);
        // Marks of an earlier round must not make pages look private.
        assert!(set.len() < PAGES, "round {round} has {} pages", set.len());
    }
}

/// Swap space of this test's own, for the time that it lives.
struct Swap {
    path: std::path::PathBuf,
}

impl Swap {
    fn on() -> Swap {
        let path = std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target"))
            .join(format!("swap-test-{}", std::process::id()));
        std::fs::write(&path, vec![0u8; 32 << 20]).expect("a file for swap space");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("permissions");
        let made = std::process::Command::new("/sbin/mkswap")
            .arg(&path)
            .output()
            .expect("mkswap, of util-linux");
        assert!(
            made.status.success(),
            "mkswap: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let swap = Swap { path };
        // SAFETY: a call with a valid C string and a plain number.
        let result = unsafe { libc::swapon(swap.name().as_ptr(), 0) };
        assert_eq!(
            result,
            0,
            "this test needs the right to turn swap on: {}",
            std::io::Error::last_os_error()
        );
        swap
    }

    fn name(&self) -> std::ffi::CString {
        std::ffi::CString::new(self.path.as_os_str().as_encoded_bytes()).expect("a path without zeros")
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // SAFETY: a call with a valid C string. It fails when swap was never turned on.
        unsafe { libc::swapoff(self.name().as_ptr()) };
        // It is nobody else's, and the next build cleans the folder in any case.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn pages_that_are_swapped_out_are_captured_like_any_other() {
    let swap = Swap::on();
    let area = Area::new();
    area.warm(&mut 11);
    let truth = area.memory.bytes(0, PAGES as usize * PAGE_SIZE).to_vec();
    let start = area.memory.target(0, PAGES as usize * PAGE_SIZE);
    // SAFETY: the range is mapped, and swapping it out changes none of its bytes.
    let advised = unsafe { libc::madvise(start.cast(), PAGES as usize * PAGE_SIZE, libc::MADV_PAGEOUT) };
    assert_eq!(advised, 0, "MADV_PAGEOUT: {}", std::io::Error::last_os_error());
    let out = area
        .target
        .source
        .map()
        .expect("page map")
        .swapped_out(area.target.source.range)
        .expect("list");
    assert!(!out.is_empty(), "nothing was swapped out, so that this proves nothing");
    let sink = Image::new();
    let mut branch = WpBranch::arm(area.target.clone(), sink.clone()).expect("arm");
    branch.take().expect("take");
    branch.copy(|| false).expect("copy");
    let (set, _) = branch.finish().expect("finish");
    // Marks must not pass for swapped pages either, else every page of the range would be private.
    assert!(set.len() < PAGES, "{} of {PAGES} pages are private", set.len());
    for page in 0..PAGES {
        assert!(
            sink.page(&area.base, page) == &truth[page as usize * PAGE_SIZE..][..PAGE_SIZE],
            "page {page} differs"
        );
    }
    drop(area);
    drop(swap);
}
