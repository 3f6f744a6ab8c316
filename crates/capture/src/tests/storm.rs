//! Writers that can be stopped at an instant, as a VM's processors can.

use super::area::{Area, random};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const WRITERS: usize = 3;
/// Size of the small window that a writer writes to. Every `WRITES_A_STEP` writes it replaces one page of the window, and now and
/// then it writes to any page. So at every stage of a capture some pages are written for the first time.
const NEAR_PAGES: u64 = 32;
const WRITES_A_STEP: u64 = 128;
const WRITES_A_STRAY: u64 = 256;
/// More time than writers need that make progress.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Storm<'a> {
    area: &'a Area,
    pause: AtomicBool,
    paused: AtomicU64,
    end: AtomicBool,
    /// Writes of each writer.
    writes: [AtomicU64; WRITERS],
}

/// Runs `body` while writers write all over the area. They end with it, even if it panics.
pub fn storm<T>(area: &Area, seed: u64, body: impl FnOnce(&Storm<'_>) -> T) -> T {
    let storm = Storm {
        area,
        pause: AtomicBool::new(false),
        paused: AtomicU64::new(0),
        end: AtomicBool::new(false),
        writes: Default::default(),
    };
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let storm = &storm;
            scope.spawn(move || storm.write(writer, seed * 100 + writer as u64));
        }
        let _let_go = LetGo(area);
        let _end = End(&storm);
        body(&storm)
    })
}

struct End<'a>(&'a Storm<'a>);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end.store(true, Ordering::Release);
    }
}

/// Releases all writers on drop: a failed test must say so, rather than wait for a writer that is blocked forever.
struct LetGo<'a>(&'a Area);

impl Drop for LetGo<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.target.uffd.unprotect(self.0.range());
        }
    }
}

impl Storm<'_> {
    fn write(&self, writer: usize, mut seed: u64) {
        let first = self.area.pages / WRITERS as u64 * writer as u64;
        let mut written = 0;
        while !self.end.load(Ordering::Acquire) {
            if self.pause.load(Ordering::Acquire) {
                self.rest();
                continue;
            }
            written += 1;
            let page = match random(&mut seed, WRITES_A_STRAY) {
                0 => random(&mut seed, self.area.pages),
                near => (first + written / WRITES_A_STEP + near % NEAR_PAGES) % self.area.pages,
            };
            let at = random(&mut seed, 500) as usize * 8;
            self.area.write(page, at, &random(&mut seed, u64::MAX).to_le_bytes());
            self.writes[writer].store(written, Ordering::Relaxed);
        }
    }

    fn rest(&self) {
        self.paused.fetch_add(1, Ordering::AcqRel);
        while self.pause.load(Ordering::Acquire) && !self.end.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        self.paused.fetch_sub(1, Ordering::AcqRel);
    }

    /// Runs `instant` while no writer writes.
    pub fn stop<T>(&self, instant: impl FnOnce() -> T) -> T {
        self.pause.store(true, Ordering::Release);
        await_that("the writers stop", || {
            self.paused.load(Ordering::Acquire) == WRITERS as u64
        });
        let result = instant();
        self.pause.store(false, Ordering::Release);
        await_that("the writers go on", || self.paused.load(Ordering::Acquire) == 0);
        result
    }

    /// Waits until every writer has made `count` more writes.
    pub fn wait_for_writes(&self, count: u64) {
        for writes in &self.writes {
            let wanted = writes.load(Ordering::Relaxed) + count;
            await_that("the writers get on", || writes.load(Ordering::Relaxed) >= wanted);
        }
    }
}

/// Waits until `condition` holds. Fails with `what` after a while.
pub fn await_that(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// Fails if a write to a page does not complete.
pub fn assert_writable(area: &Area, page: u64) {
    std::thread::scope(|scope| {
        let _let_go = LetGo(area);
        let writer = scope.spawn(|| area.write(page, 16, &[0xEE; 8]));
        await_that(&format!("page {page} can be written"), || writer.is_finished());
    });
}
