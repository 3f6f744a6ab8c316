//! Threads that write to a region, and that can be held at an instant, as a VM's processors can.

use crate::random::Random;
use crate::region::Region;
use crate::waits::{Stopwatch, Waits};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How they write.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub writers: u64,
    pub seed: u64,
    /// Rate of all writers together. Without a rate they write as fast as they can.
    pub writes_per_s: Option<f64>,
}

/// A writer that is ahead of its pace by less does not rest yet.
const REST_MIN: Duration = Duration::from_micros(100);

/// Findings of a writer.
#[derive(Default)]
pub struct Met {
    /// Writes that met a fault before the instant, and after it.
    pub before: Waits,
    pub after: Waits,
    /// Writes that were gone when their page's turn came again.
    pub lost_writes: u64,
}

/// Alone in its cache lines, so that writers share nothing but the region.
#[derive(Default)]
#[repr(align(128))]
struct Count(AtomicU64);

pub struct Writers<'a> {
    region: &'a Region,
    pace: Pace,
    hold: AtomicBool,
    end: AtomicBool,
    past_instant: AtomicBool,
    /// All writers and the thread that stops them meet here: once to stop, and once to continue.
    barrier: Barrier,
    writes: Vec<Count>,
}

/// Runs `body` with writers that have written to every page of the region, and are held. They end with it. Returns what
/// each of them has met as well.
pub fn with_writers<T>(region: &Region, pace: Pace, body: impl FnOnce(&Writers<'_>) -> T) -> (T, Vec<Met>) {
    let writers = Writers {
        region,
        pace,
        hold: AtomicBool::new(true),
        end: AtomicBool::new(false),
        past_instant: AtomicBool::new(false),
        barrier: Barrier::new(pace.writers as usize + 1),
        writes: (0..pace.writers).map(|_| Count::default()).collect(),
    };
    std::thread::scope(|scope| {
        let writers = &writers;
        let spawn = |index| scope.spawn(move || Writer::new(writers, index).write());
        let threads: Vec<_> = (0..pace.writers).map(spawn).collect();
        let end = End(writers);
        writers.barrier.wait();
        let result = body(writers);
        drop(end);
        let met = threads
            .into_iter()
            .map(|thread| thread.join().expect("a writer does not panic"));
        (result, met.collect())
    })
}

struct End<'a>(&'a Writers<'a>);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end.store(true, Ordering::Release);
        if self.0.hold.load(Ordering::Acquire) {
            self.0.run_on();
        }
    }
}

impl Writers<'_> {
    /// Returns when none of them writes any more.
    pub fn hold(&self) {
        self.hold.store(true, Ordering::Release);
        self.barrier.wait();
    }

    /// Resumes the writers.
    pub fn run_on(&self) {
        self.hold.store(false, Ordering::Release);
        self.barrier.wait();
    }

    /// Faults that writers meet from now on are after the instant.
    pub fn note_instant(&self) {
        self.past_instant.store(true, Ordering::Release);
    }

    /// How often they have written.
    pub fn writes(&self) -> u64 {
        self.writes.iter().map(|count| count.0.load(Ordering::Relaxed)).sum()
    }

    /// How often they write a second while `body` runs.
    pub fn writes_per_s<T>(&self, body: impl FnOnce() -> T) -> (f64, T) {
        let (start, before) = (Instant::now(), self.writes());
        let result = body();
        ((self.writes() - before) as f64 / start.elapsed().as_secs_f64(), result)
    }
}

/// A writer. Every n-th page belongs to it, from its index on, where n is the number of writers.
struct Writer<'a> {
    writers: &'a Writers<'a>,
    index: u64,
    random: Random,
    /// The last word written to each of its pages. The word also says where in the page it is.
    last: Vec<u32>,
    written: u64,
    met: Met,
}

impl<'a> Writer<'a> {
    /// Writes to all of its pages, so that each is private from here on.
    fn new(writers: &'a Writers<'a>, index: u64) -> Writer<'a> {
        let own_pages = (writers.region.pages() - index).div_ceil(writers.pace.writers);
        let mut writer = Writer {
            writers,
            index,
            random: Random::new(writers.pace.seed * 1000 + index),
            last: vec![0; own_pages as usize],
            written: 0,
            met: Met::default(),
        };
        // Timed for nothing, so that the clocks' own code is in memory as well before they are relied on.
        let (mut watch, mut waits) = (Stopwatch::start(), Waits::default());
        for own in 0..own_pages {
            writer.give(own);
            watch.lap(&mut waits);
        }
        writer
    }

    fn write(mut self) -> Met {
        let mut watch = Stopwatch::start();
        let mut started = (Instant::now(), self.written);
        while !self.writers.end.load(Ordering::Acquire) {
            if self.writers.hold.load(Ordering::Acquire) {
                self.writers.barrier.wait();
                self.writers.barrier.wait();
                watch = Stopwatch::start();
                started = (Instant::now(), self.written);
                continue;
            }
            let own = self.random.below(self.last.len() as u64);
            self.met.lost_writes += u64::from(!self.still_has(own));
            self.give(own);
            match self.writers.past_instant.load(Ordering::Relaxed) {
                false => watch.lap(&mut self.met.before),
                true => watch.lap(&mut self.met.after),
            }
            if self.rest(started) {
                watch = Stopwatch::start();
            }
        }
        self.met
    }

    fn still_has(&self, own: u64) -> bool {
        let last = self.last[own as usize].into();
        self.page_word(own, last).load(Ordering::Relaxed) == last
    }

    fn give(&mut self, own: u64) {
        let value = self.random.number() as u32;
        self.page_word(own, value.into()).store(value.into(), Ordering::Relaxed);
        self.last[own as usize] = value;
        self.written += 1;
        self.writers.writes[self.index as usize]
            .0
            .store(self.written, Ordering::Relaxed);
    }

    fn page_word(&self, own: u64, value: u64) -> &AtomicU64 {
        let writers = self.writers;
        writers.region.word(own * writers.pace.writers + self.index, value)
    }

    /// Rests when it is ahead of its pace since it `started`; says whether it did.
    fn rest(&self, started: (Instant, u64)) -> bool {
        let Some(writes_per_s) = self.writers.pace.writes_per_s else {
            return false;
        };
        let (start, before) = started;
        let own_per_s = writes_per_s / self.writers.pace.writers as f64;
        let due = Duration::from_secs_f64((self.written - before) as f64 / own_per_s);
        let ahead = due.saturating_sub(start.elapsed());
        if ahead < REST_MIN {
            return false;
        }
        std::thread::sleep(ahead);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: u64 = 64;
    const PACE: Pace = Pace {
        writers: 3,
        seed: 5,
        writes_per_s: None,
    };

    /// Lets each of them get on by so many writes.
    fn run_on_for(writers: &Writers<'_>, writes: u64) {
        let counts = || writers.writes.iter().map(|count| count.0.load(Ordering::Relaxed));
        let wanted: Vec<u64> = counts().map(|count| count + writes).collect();
        writers.run_on();
        while counts().zip(&wanted).any(|(count, wanted)| count < *wanted) {
            std::thread::yield_now();
        }
        writers.hold();
    }

    #[test]
    fn writers_write_to_all_of_a_region_and_not_while_they_are_held() {
        let region = Region::new(PAGES).expect("a region");
        let ((), met) = with_writers(&region, PACE, |writers| {
            let held = (writers.writes(), region.bytes().to_vec());
            assert_eq!(held.0, PAGES, "each page once");
            assert!((writers.writes(), region.bytes()) == (held.0, &held.1[..]));
            run_on_for(writers, 100 * PAGES);
            let same =
                (0..PAGES as usize).find(|page| held.1[page * 4096..][..4096] == region.bytes()[page * 4096..][..4096]);
            assert_eq!(same, None, "a page that nobody writes to");
        });
        assert_eq!(met.iter().map(|met| met.lost_writes).sum::<u64>(), 0);
        assert_eq!(
            met.iter().map(|met| met.before.count()).sum::<u64>(),
            0,
            "no write meets a fault here"
        );
    }

    #[test]
    fn a_write_that_is_undone_behind_its_writers_back_is_noticed() {
        let region = Region::new(PAGES).expect("a region");
        let ((), met) = with_writers(&region, PACE, |writers| {
            (0..512).for_each(|word| region.word(7, word).store(u64::MAX, Ordering::Relaxed));
            run_on_for(writers, 100 * PAGES);
        });
        assert_eq!(met.iter().map(|met| met.lost_writes).sum::<u64>(), 1);
    }

    #[test]
    fn a_pace_is_kept() {
        let region = Region::new(PAGES).expect("a region");
        let pace = Pace {
            writes_per_s: Some(20_000.0),
            ..PACE
        };
        let start = Instant::now();
        with_writers(&region, pace, |writers| run_on_for(writers, 700));
        // Less what a writer may be ahead.
        let due = Duration::from_secs_f64(700.0 * 3.0 / 20_000.0) - REST_MIN;
        assert!(start.elapsed() > due, "{:?}", start.elapsed());
    }
}
