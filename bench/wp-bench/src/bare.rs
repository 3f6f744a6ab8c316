//! The floor of what a write can wait for: a write-protect fault that is answered at once, by a thread that does nothing else.

use crate::random::Random;
use crate::region::Region;
use crate::waits::{Stopwatch, Waits};
use forkd_capture::Target;
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::fds::{self, EventFd, Wait};
use forkd_linux_sys::uffd::Range;
use std::error::Error;
use std::io;
use std::sync::atomic::Ordering;

/// Enough for a 99th percentile, and small enough that the region's page tables stay in the processor's caches.
const PAGES: u64 = 4096;

/// Times one write to each page of a small region of the same kind, all of it protected, as the writer sees it.
pub fn round_trips(seed: u64) -> Result<Waits, Box<dyn Error>> {
    let region = Region::new(PAGES)?;
    (0..PAGES).for_each(|page| region.word(page, 0).store(page, Ordering::Relaxed));
    let target = region.target()?;
    target.uffd.register_write_protect(target.source.range())?;
    target.uffd.protect(target.source.range())?;
    let end = EventFd::new()?;
    let waits = std::thread::scope(|scope| {
        let answering = scope.spawn(|| answer(&target, &end));
        let waits = scope
            .spawn(|| write_once(&region, seed))
            .join()
            .expect("it does not panic");
        end.signal();
        answering.join().expect("it does not panic").map(|()| waits)
    })?;
    Ok(waits)
}

/// Writes in random order, so that no page is in a cache because of its neighbour.
fn write_once(region: &Region, seed: u64) -> Waits {
    let mut random = Random::new(seed);
    let mut pages: Vec<u64> = (0..PAGES).collect();
    (1..PAGES)
        .rev()
        .for_each(|last| pages.swap(last as usize, random.below(last + 1) as usize));
    let mut waits = Waits::default();
    let mut watch = Stopwatch::start();
    for page in pages {
        region.word(page, page).store(page, Ordering::Relaxed);
        watch.lap(&mut waits);
    }
    waits
}

/// Poll, read, unprotect, and nothing else.
fn answer(target: &Target, end: &EventFd) -> io::Result<()> {
    let mut faults = Vec::new();
    loop {
        let ready = fds::wait(&[Wait::readable(&*target.uffd), Wait::readable(end)], None)?;
        if ready[0] {
            faults.clear();
            target.uffd.read_faults(&mut faults, 64)?;
            for start in &faults {
                target.uffd.unprotect(Range {
                    start: *start,
                    end: start + PAGE_SIZE as u64,
                })?;
            }
        }
        if ready[1] {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_meets_one_fault() {
        assert_eq!(round_trips(1).expect("it is answered").count(), PAGES);
    }
}
