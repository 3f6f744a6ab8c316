//! Capturing the private pages of a running process at one instant: the mechanism of a live branch, which knows nothing of
//! virtual machines.
//!
//! The caller's steps, in order; the guarantee is that the sink holds, for every page of the set, the bytes that it had when
//! [`WpBranch::take`] was called, provided that nothing writes to the range during that call:
//! 1. [`WpBranch::arm`], the process running: registers and protects the range, lists its private pages, and starts the
//!    fault handler. A first write to a page now faults once; the handler notes the page as *touched* and lets it go.
//! 2. The caller stops whatever writes. [`WpBranch::take`] protects the touched pages again. Work in proportion to them.
//! 3. The caller lets it run. [`WpBranch::copy`] copies the set. A write to a page that has not been copied waits for that
//!    page's copy alone, which the handler makes at once.
//! 4. [`WpBranch::finish`] lifts the protection and ends the handler. Dropping the branch does the same at any point.

mod handler;
mod set;
mod source;

pub use set::{CaptureSet, Run};
pub use source::{Sink, Source};

use crate::error::{PagerError, Result, Step};
use forkd_linux_sys::pagemap::Kind;
use forkd_linux_sys::uffd::{Range, Userfaultfd};
use forkd_protocol::FaultCode;
use handler::{Handler, Phase};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pages copied a call: large enough that the call does not matter, small enough that a write to one of them is not held up.
const CHUNK_PAGES: u64 = 64;
/// Protection is changed this much at a time, so that no other user of the address space waits for all of it.
const STEP_BYTES: u64 = 64 << 20;
/// Touched pages this near to each other are protected again in one call; those between them are protected anyway.
const JOIN_PAGES: u64 = 32;

/// Memory of another process, and the userfaultfd of its address space.
#[derive(Debug, Clone)]
pub struct Target {
    pub source: Source,
    pub uffd: Arc<Userfaultfd>,
}

/// What the capture has cost so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Statistics {
    pub arm: Duration,
    pub scan: Duration,
    pub touched_pages: u64,
    /// Faults served since the instant.
    pub faults: u64,
    pub fault_wait_max: Duration,
}

/// A capture under way.
#[derive(Debug)]
pub struct WpBranch {
    target: Target,
    sink: Sink,
    handler: Handler,
    /// What the scan found, until `take` completes it.
    scanned: Option<CaptureSet>,
    set: Option<Arc<CaptureSet>>,
    statistics: Statistics,
    released: bool,
}

impl WpBranch {
    /// Protects the range and lists its private pages. Registers the range if that has not been done.
    pub fn arm(target: Target, sink: Sink) -> Result<WpBranch> {
        assert_eq!(
            sink.memory.len() as u64,
            target.source.range.len(),
            "a sink is as large as its range"
        );
        target
            .uffd
            .register_write_protect(target.source.range)
            .step(|| "registering memory for write-protection".into())?;
        let handler = Handler::start(target.clone(), sink.clone())?;
        let mut branch = WpBranch {
            target,
            sink,
            handler,
            scanned: None,
            set: None,
            statistics: Statistics::default(),
            released: false,
        };
        branch.protect_and_scan()?;
        Ok(branch)
    }

    /// Once a page is protected, an entry for one that was never populated looks swapped out. So the pages that really are
    /// swapped out come from the scan before, and those in memory from the scan after, which also has what was written since.
    fn protect_and_scan(&mut self) -> Result<()> {
        let start = Instant::now();
        let before = self.target.source.scan(Kind::Private)?;
        let scanned = start.elapsed();
        for step in steps(self.target.source.range) {
            self.target
                .uffd
                .protect(step)
                .step(|| "write-protecting memory".into())?;
        }
        self.statistics.arm = start.elapsed() - scanned;
        let again = Instant::now();
        let mut ranges = self.target.source.scan(Kind::PrivatePresent)?;
        ranges.extend(before);
        if host_swaps() {
            // A page can be written and swapped out between the two scans. Only an entry's swap type tells it from a mark.
            let map = self.target.source.map()?;
            ranges.extend(
                map.swapped_out(self.target.source.range)
                    .step(|| "listing swapped pages".into())?,
            );
        }
        self.scanned = Some(CaptureSet::new(self.target.source.range.start, &joined(ranges)));
        self.statistics.scan = scanned + again.elapsed();
        Ok(())
    }

    /// The instant. Nothing may write to the range during this call.
    pub fn take(&mut self) -> Result<()> {
        let mut set = self.scanned.take().expect("an armed branch is taken once");
        let target = &self.target;
        let touched = self.handler.change_phase(|phase| {
            let Phase::Tracking { touched } = phase else {
                return Err(std::io::Error::other("the fault handler has failed"));
            };
            let mut touched = std::mem::take(touched);
            touched.sort_unstable();
            touched.dedup();
            for (page, pages) in near(&touched) {
                target.uffd.protect(target.source.pages(page, pages))?;
            }
            let count = touched.len() as u64;
            set.touch(touched);
            let set = Arc::new(set);
            self.set = Some(set.clone());
            *phase = Phase::Capturing { set };
            Ok::<u64, std::io::Error>(count)
        });
        self.handler.check()?;
        self.statistics.touched_pages = touched.step(|| "write-protecting the touched pages again".into())?;
        Ok(())
    }

    /// The set, once taken.
    pub fn set(&self) -> &Arc<CaptureSet> {
        self.set.as_ref().expect("the branch has been taken")
    }

    /// Copies all pages that no fault has copied. `copied` is called with runs that are complete and released.
    pub fn copy(&self, cancelled: impl Fn() -> bool, mut copied: impl FnMut(Run)) -> Result<()> {
        let set = self.set();
        for chunk in chunks(set) {
            if cancelled() {
                return Err(PagerError::new(
                    FaultCode::Cancelled,
                    "the branch was cancelled while its memory was copied",
                ));
            }
            let claimed = claimed(set, &chunk);
            self.target
                .source
                .read(&self.sink, &claimed)
                .step(|| "reading the memory of the source".into())?;
            claimed.iter().flat_map(ranks).for_each(|rank| set.complete(rank));
            for run in &claimed {
                self.target
                    .uffd
                    .unprotect(self.target.source.pages(run.page, run.pages))
                    .step(|| "releasing copied pages".into())?;
            }
            claimed.into_iter().for_each(&mut copied);
            self.handler.check()?;
        }
        Ok(())
    }

    /// Lifts the protection. Fails if any page could not be read in time: the sink is worthless then.
    pub fn finish(mut self) -> Result<(Arc<CaptureSet>, Statistics)> {
        self.release();
        self.handler.check()?;
        let set = self.set.take().expect("the branch has been taken");
        assert!(set.is_complete(), "a branch is finished after its copy");
        self.statistics.faults = self.handler.faults();
        self.statistics.fault_wait_max = self.handler.wait_max();
        Ok((set, self.statistics))
    }

    fn release(&mut self) {
        if self.released {
            return;
        }
        self.released = true;
        // From here the handler only lets writers go, so that none waits for a page that will never be copied.
        self.handler.change_phase(|phase| *phase = Phase::Released);
        for step in steps(self.target.source.range) {
            // It fails only when the process has ended, and then nobody waits.
            if self.target.uffd.unprotect(step).is_err() {
                break;
            }
        }
        self.handler.stop();
    }
}

impl Drop for WpBranch {
    fn drop(&mut self) {
        self.release();
    }
}

fn ranks(run: &Run) -> std::ops::Range<u64> {
    run.first_rank..run.first_rank + run.pages
}

/// The set in pieces of at most [`CHUNK_PAGES`] pages: a long run is cut, short ones are put together.
fn chunks(set: &CaptureSet) -> impl Iterator<Item = Vec<Run>> + '_ {
    let mut pieces = set.runs().flat_map(cut).peekable();
    std::iter::from_fn(move || {
        let mut room = CHUNK_PAGES;
        let mut chunk = Vec::new();
        while let Some(run) = pieces.next_if(|run| run.pages <= room) {
            room -= run.pages;
            chunk.push(run);
        }
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn cut(run: Run) -> impl Iterator<Item = Run> {
    (0..run.pages).step_by(CHUNK_PAGES as usize).map(move |offset| Run {
        page: run.page + offset,
        pages: CHUNK_PAGES.min(run.pages - offset),
        first_rank: run.first_rank + offset,
    })
}

/// The parts of `chunk` that nobody had claimed, now the caller's.
fn claimed(set: &CaptureSet, chunk: &[Run]) -> Vec<Run> {
    let mut mine: Vec<Run> = Vec::with_capacity(chunk.len());
    for run in chunk {
        let mut open = false;
        for rank in ranks(run) {
            if set.claim(rank) != set::Claim::Yours {
                open = false;
                continue;
            }
            match mine.last_mut().filter(|_| open) {
                Some(last) => last.pages += 1,
                None => mine.push(Run {
                    page: run.page + (rank - run.first_rank),
                    pages: 1,
                    first_rank: rank,
                }),
            }
            open = true;
        }
    }
    mine
}

/// Pages that lie near to each other, as `(first page, pages)`.
fn near(sorted: &[u64]) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for &page in sorted {
        match out.last_mut() {
            Some((first, pages)) if page < *first + *pages + JOIN_PAGES => *pages = page - *first + 1,
            _ => out.push((page, 1)),
        }
    }
    out
}

fn steps(range: Range) -> impl Iterator<Item = Range> {
    (range.start..range.end)
        .step_by(STEP_BYTES as usize)
        .map(move |start| Range {
            start,
            end: (start + STEP_BYTES).min(range.end),
        })
}

/// Sorted, with what overlaps or touches made one.
fn joined(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut out: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}

/// Whether this host has swap space in use. Without any, no page is ever swapped out.
fn host_swaps() -> bool {
    std::fs::read_to_string("/proc/swaps").map_or(true, |text| text.lines().count() > 1)
}

#[cfg(test)]
mod tests;
