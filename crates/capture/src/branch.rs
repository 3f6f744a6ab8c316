//! A capture, from its preparation to its end.

use crate::early::EarlyImage;
use crate::error::{CaptureError, Result, Step};
use crate::handler::Handler;
use crate::phase::Phase;
use crate::queue::FaultQueue;
use crate::set::{CaptureSet, Claim, Run};
use crate::sink::Sink;
use crate::source::{Pages, Source, Target};
use crate::waits::WaitSummary;
use forkd_linux_sys::pagemap::Pagemap;
use forkd_linux_sys::sched::Urgent;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Faults served at a time.
pub(crate) const BATCH: usize = 64;
/// Pages read a call: large enough that the call does not matter, small enough that a write to one of them is not held up.
const CHUNK_PAGES: u64 = 32;
/// Protection is changed this much at a time, so that no other user of the address space waits for all of it.
const STEP_BYTES: u64 = 16 << 20;
/// Touched pages this near to each other are protected again in one call; those between them are protected anyway.
const JOIN_PAGES: u64 = 32;
/// With no more touched pages than this, the instant need not be prepared any further.
const SETTLED_PAGES: usize = 24;
/// A source that writes faster than it can be protected is not waited for.
const ROUNDS_MAX: u32 = 12;

/// What a capture has cost so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Statistics {
    /// Protecting all of the range.
    pub arm: Duration,
    /// Listing its private pages.
    pub scan: Duration,
    /// Protecting again, before the instant, what was touched meanwhile; and how often that was done.
    pub settle: Duration,
    pub rounds: u32,
    /// Protected again at the instant.
    pub touched_pages: u64,
    /// Of the set: copied in bulk, and for a write that waited.
    pub pages_by_copy: u64,
    pub pages_by_fault: u64,
    /// Of the writes that met the protection after the instant.
    pub waits: WaitSummary,
}

/// A capture under way. Dropping it, at any point, lets the source go on unprotected.
pub struct WpBranch {
    target: Target,
    sink: Arc<dyn Sink>,
    handler: Handler,
    /// Until `take` shares it with the handler.
    preparing: Option<CaptureSet>,
    set: Option<Arc<CaptureSet>>,
    statistics: Statistics,
    released: bool,
}

impl WpBranch {
    /// Protects the range and lists its private pages. Registers the range if that has not been done.
    ///
    /// Fails when the kernel cannot write-protect this kind of memory, and when the process has ended.
    pub fn arm(target: Target, sink: Arc<dyn Sink>) -> Result<WpBranch> {
        for region in target.source.regions() {
            target
                .uffd
                .register_write_protect(region.memory)
                .map_err(|error| target.source.gone().unwrap_or(error))
                .step(|| "registering memory for write-protection".into())?;
        }
        Self::prepare(target, None, sink)
    }

    /// The same for memory whose pages somebody serves, who has registered all of it for write faults, too. Whoever reads the
    /// userfaultfd tells `queue` of writes to protected pages, and of pages that are given back, from before this call until
    /// the branch is gone. Until then, too, every page that is filled must be filled protected: a page that is not there has
    /// no protection of its own.
    ///
    /// Pages that were given back are of the set: they are zeros. Of one that is given back after the instant the content is
    /// lost, and the capture fails.
    pub fn arm_served(target: Target, queue: Arc<FaultQueue>, sink: Arc<dyn Sink>) -> Result<WpBranch> {
        Self::prepare(target, Some(queue), sink)
    }

    fn prepare(target: Target, queue: Option<Arc<FaultQueue>>, sink: Arc<dyn Sink>) -> Result<WpBranch> {
        let is_served = queue.is_some();
        let handler = Handler::start(target.clone(), queue, sink.clone())?;
        let mut branch = WpBranch {
            target,
            sink,
            handler,
            preparing: None,
            set: None,
            statistics: Statistics::default(),
            released: false,
        };
        branch.protect_and_scan(is_served)?;
        branch.settle()?;
        Ok(branch)
    }

    /// The scan comes after the protection: what is written later is noted by the handler.
    fn protect_and_scan(&mut self, is_served: bool) -> Result<()> {
        let start = Instant::now();
        for step in self.target.source.steps(STEP_BYTES) {
            self.target
                .uffd
                .protect(step)
                .step(|| "write-protecting memory".into())?;
        }
        if !is_served {
            self.protect_unpopulated()
                .step(|| "write-protecting memory that was never populated".into())?;
        }
        self.statistics.arm = start.elapsed();
        let ranges = self.target.source.own_pages_protected(host_swaps())?;
        self.preparing = Some(CaptureSet::new(&ranges));
        self.statistics.scan = start.elapsed() - self.statistics.arm;
        Ok(())
    }

    /// Before Linux 6.4 a page of anonymous memory cannot be protected before it is populated, if only with zeros.
    fn protect_unpopulated(&self) -> io::Result<()> {
        let Target { source, uffd } = &self.target;
        if uffd.protects_unpopulated()? {
            return Ok(());
        }
        // Pages that were touched meanwhile are among these, and may be protected again: they have been noted.
        let map = Pagemap::open(source.pid)?;
        for region in source.regions() {
            for range in map.unprotected(region.memory)? {
                source.populate(range)?;
                uffd.protect(range)?;
            }
        }
        Ok(())
    }

    /// Protects again what was touched since the last time, the source running, until little is left: each round is shorter
    /// than the one before, and so is what is touched meanwhile. `arm` ends with it; a caller who has done other things
    /// since calls it once more right before the instant.
    pub fn settle(&mut self) -> Result<()> {
        let start = Instant::now();
        let set = self.preparing.as_mut().expect("a branch settles before it is taken");
        for _ in 0..ROUNDS_MAX {
            let touched = self.handler.change_phase(|phase| match phase {
                Phase::Tracking { touched } if touched.len() > SETTLED_PAGES => std::mem::take(touched),
                _ => Vec::new(),
            });
            if touched.is_empty() {
                break;
            }
            // A page of these that is written before it is protected again is in the set all the same; one that is written
            // after is noted anew.
            protect_again(&self.target, &touched).step(|| "write-protecting the touched pages again".into())?;
            set.touch(touched);
            self.statistics.rounds += 1;
        }
        self.statistics.settle += start.elapsed();
        self.handler.check()
    }

    /// The instant. Nothing may write to the range during this call.
    pub fn take(&mut self) -> Result<()> {
        let mut set = self.preparing.take().expect("an armed branch is taken once");
        let target = &self.target;
        let touched = self.handler.change_phase(|phase| {
            let Phase::Tracking { touched } = phase else {
                return Err(io::Error::other("the fault handler has failed"));
            };
            let touched = std::mem::take(touched);
            let count = touched.len() as u64;
            protect_again(target, &touched)?;
            set.touch(touched);
            let set = Arc::new(set);
            self.set = Some(set.clone());
            *phase = Phase::Capturing { set };
            Ok(count)
        });
        self.handler.check()?;
        self.statistics.touched_pages = touched.step(|| "write-protecting the touched pages again".into())?;
        Ok(())
    }

    /// The set, once taken.
    pub fn set(&self) -> &Arc<CaptureSet> {
        self.set.as_ref().expect("the branch has been taken")
    }

    /// The image, for those who cannot wait until it is whole. Of a branch that has been taken.
    pub fn early(&self) -> EarlyImage {
        EarlyImage::new(self.handler.shared().clone(), self.set().clone())
    }

    /// Copies all pages that no fault has copied; the sink has the whole set afterwards. `cancelled` is asked between chunks.
    pub fn copy(&mut self, cancelled: impl Fn() -> bool) -> Result<()> {
        let set = self.set().clone();
        let buffer = Pages::new(CHUNK_PAGES)?;
        for chunk in chunks(&set) {
            if cancelled() {
                return Err(CaptureError::Cancelled);
            }
            let runs = claimed(&set, &chunk);
            self.read(&set, &runs, &buffer)?;
            put(&*self.sink, &runs, &buffer)?;
            runs.iter().flat_map(ranks).for_each(|rank| set.complete(rank));
            self.handler.check()?;
        }
        self.handler.wait_for_kept();
        self.handler.check()?;
        assert!(
            set.is_complete(),
            "every page has been claimed by somebody, who has kept it or failed"
        );
        Ok(())
    }

    /// A page's writer waits for the reading of its chunk, never for the sink.
    fn read(&mut self, set: &CaptureSet, runs: &[Run], buffer: &Pages) -> Result<()> {
        let Target { source, uffd } = &self.target;
        // With pages in hand for which somebody may wait, this thread must not be put aside.
        let _urgent = Urgent::this_thread();
        source
            .read(runs, buffer, 0)
            .step(|| format!("reading the memory of process {}", source.pid))?;
        for run in runs {
            ranks(run).for_each(|rank| set.note_read(rank));
            source
                .pages(run.page, run.pages)
                .try_for_each(|range| uffd.unprotect(range))
                .step(|| "releasing pages that were read".into())?;
            self.handler.note_released(*run);
            self.statistics.pages_by_copy += run.pages;
        }
        Ok(())
    }

    /// Lifts the protection from what is left under it, and returns the set and what it has cost. Fails if a page could not
    /// be had in time, as `copy` does, or if the process has ended since.
    pub fn finish(mut self) -> Result<(Arc<CaptureSet>, Statistics)> {
        self.release();
        self.handler.check()?;
        let set = self.set.take().expect("the branch has been taken");
        assert!(set.is_complete(), "a branch is finished after its copy");
        Ok((set, self.statistics()))
    }

    /// What it has cost so far.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            pages_by_fault: self.handler.pages(),
            waits: self.handler.waits(),
            ..self.statistics
        }
    }

    fn release(&mut self) {
        if self.released {
            return;
        }
        self.released = true;
        // From here the handler only lets writers go, so that none waits for a page that will never be copied.
        self.handler.change_phase(|phase| *phase = Phase::Released);
        for step in self.target.source.steps(STEP_BYTES) {
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

fn put(sink: &dyn Sink, runs: &[Run], buffer: &Pages) -> Result<()> {
    let mut first = 0;
    for run in runs {
        sink.put(*run, buffer.bytes(first, run.pages))
            .step(|| "keeping pages of a capture".into())?;
        first += run.pages;
    }
    Ok(())
}

/// Copies a whole set of a source that does not change meanwhile, without a userfaultfd.
pub fn copy_still(source: &Source, set: &CaptureSet, sink: &dyn Sink) -> Result<()> {
    let buffer = Pages::new(CHUNK_PAGES)?;
    for chunk in chunks(set) {
        source
            .read(&chunk, &buffer, 0)
            .step(|| format!("reading the memory of process {}", source.pid))?;
        put(sink, &chunk, &buffer)?;
    }
    Ok(())
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
    (0..run.pages)
        .step_by(CHUNK_PAGES as usize)
        .map(move |skip| run.part(skip, CHUNK_PAGES.min(run.pages - skip)))
}

/// The parts of `chunk` that nobody had claimed, now the caller's.
fn claimed(set: &CaptureSet, chunk: &[Run]) -> Vec<Run> {
    let mut mine: Vec<Run> = Vec::with_capacity(chunk.len());
    for run in chunk {
        let mut open = false;
        for skip in 0..run.pages {
            if set.claim(run.first_rank + skip) != Claim::Yours {
                open = false;
                continue;
            }
            match mine.last_mut().filter(|_| open) {
                Some(last) => last.pages += 1,
                None => mine.push(run.part(skip, 1)),
            }
            open = true;
        }
    }
    mine
}

fn protect_again(target: &Target, touched: &[u64]) -> io::Result<()> {
    let mut sorted = touched.to_vec();
    sorted.sort_unstable();
    near(&sorted)
        .into_iter()
        .flat_map(|(page, pages)| target.source.pages(page, pages))
        .try_for_each(|range| target.uffd.protect(range))
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

/// Whether this host has swap space in use. Without any, no page is ever swapped out.
fn host_swaps() -> bool {
    std::fs::read_to_string("/proc/swaps").map_or(true, |text| text.lines().count() > 1)
}
