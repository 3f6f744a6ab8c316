//! A capture from preparation to end.

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

/// Pages per read call: enough to make the cost of the call negligible, few enough not to hold up a write to one of them.
const CHUNK_PAGES: u64 = 32;
/// Bytes per change of protection, so that no other user of the address space waits for the whole range.
const STEP_BYTES: u64 = 16 << 20;
/// Touched pages this near to each other are protected again in one call, including the pages between them.
const JOIN_PAGES: u64 = 32;
/// The instant needs no further preparation if no more pages than these were touched.
const SETTLED_PAGES: usize = 24;
/// Most rounds. A source may write faster than its pages can be protected.
const ROUNDS_MAX: u32 = 12;

/// Longest time to protect touched pages at the instant, when the source is stopped. A page takes microseconds; a
/// source that makes it take longer is not captured.
const PROTECT_MAX: Duration = Duration::from_secs(1);

/// The cost of a capture so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Statistics {
    /// Time to protect the whole range.
    pub arm: Duration,
    /// Time to list the private pages.
    pub scan: Duration,
    /// Time to protect touched pages again before the instant, and the number of rounds.
    pub settle: Duration,
    pub rounds: u32,
    /// Pages protected again at the instant.
    pub touched_pages: u64,
    /// Pages of the set that were copied in bulk, and for a write that waited.
    pub pages_by_copy: u64,
    pub pages_by_fault: u64,
    /// Waits of the writes that met the protection after the instant.
    pub waits: WaitSummary,
}

/// A capture under way. Dropping it, at any point, leaves the source running unprotected.
pub struct WpBranch {
    target: Target,
    sink: Arc<dyn Sink>,
    handler: Handler,
    /// The set until `take` shares it with the handler.
    preparing: Option<CaptureSet>,
    set: Option<Arc<CaptureSet>>,
    statistics: Statistics,
    released: bool,
}

impl WpBranch {
    /// Protects the range and lists its private pages. Registers the range if necessary.
    ///
    /// Fails if the kernel cannot write-protect this kind of memory, or if the process has ended.
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

    /// The same as `arm`, for memory whose pages another program serves and has registered for write faults, too. From
    /// before this call until the branch is dropped, the reader of the userfaultfd must tell `queue` about writes to
    /// protected pages and about freed pages. Until then it must also fill every page protected: an absent page has no
    /// protection.
    ///
    /// Freed pages belong to the set and read as zeros. A page of the set that is freed after the instant has lost its
    /// content, so the capture fails.
    pub fn arm_served(target: Target, queue: Arc<FaultQueue>, sink: Arc<dyn Sink>) -> Result<WpBranch> {
        let source = target.source.served();
        Self::prepare(Target { source, ..target }, Some(queue), sink)
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

    /// Scans after protecting: the handler notes later writes.
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
        let ranges = self.target.source.own_pages_protected()?;
        self.preparing = Some(CaptureSet::new(&ranges));
        self.statistics.scan = start.elapsed() - self.statistics.arm;
        Ok(())
    }

    /// Populates pages, if only with zeros. Before Linux 6.4 a page of anonymous memory cannot be protected before that.
    fn protect_unpopulated(&self) -> io::Result<()> {
        let Target { source, uffd } = &self.target;
        if uffd.protects_unpopulated()? {
            return Ok(());
        }
        // Pages touched meanwhile are among these, and may be protected again: they have been noted.
        let map = Pagemap::open(source.pid)?;
        for region in source.regions() {
            for range in map.unprotected(region.memory)? {
                source.populate(range)?;
                uffd.protect(range)?;
            }
        }
        Ok(())
    }

    /// Protects touched pages again while the source runs, until few are left: each round is shorter than the one
    /// before, and fewer pages are touched meanwhile. `arm` ends with this step. A caller with other work in between
    /// calls it once more right before the instant.
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
            // A page written before it is protected again is in the set all the same. A later write is noted again.
            protect_again(&self.target, &touched).step(|| "write-protecting the touched pages again".into())?;
            set.touch(touched);
            self.statistics.rounds += 1;
        }
        self.statistics.settle += start.elapsed();
        self.handler.check()
    }

    /// Takes the instant. Nothing may write to the range during this call.
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

    /// Fails if the capture has failed meanwhile, as its next step will.
    pub fn check(&self) -> Result<()> {
        self.handler.check()
    }

    /// The set. Panics before `take`.
    pub fn set(&self) -> &Arc<CaptureSet> {
        self.set.as_ref().expect("the branch has been taken")
    }

    /// The image, for callers that cannot wait until it is complete. Panics before `take`.
    pub fn early(&self) -> EarlyImage {
        EarlyImage::new(self.handler.shared().clone(), self.set().clone())
    }

    /// Copies all pages that no fault has copied. The sink then has the whole set. Calls `cancelled` between chunks.
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

    /// Reads claimed runs and releases them. A page's writer waits for its chunk to be read, never for the sink.
    fn read(&mut self, set: &CaptureSet, runs: &[Run], buffer: &Pages) -> Result<()> {
        let Target { source, uffd } = &self.target;
        // A writer may wait for these pages: the scheduler must not preempt this thread.
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

    /// Lifts the remaining protection, and returns the set and its cost. Fails if a page could not be copied in time,
    /// as `copy` does, or if the process has ended since.
    pub fn finish(mut self) -> Result<(Arc<CaptureSet>, Statistics)> {
        self.release();
        self.handler.check()?;
        let set = self.set.take().expect("the branch has been taken");
        assert!(set.is_complete(), "a branch is finished after its copy");
        Ok((set, self.statistics()))
    }

    /// The cost so far.
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
        // The handler now only releases writers, so that none waits for a page that will never be copied.
        self.handler.change_phase(|phase| *phase = Phase::Released);
        for step in self.target.source.steps(STEP_BYTES) {
            // Fails if the process has ended, and then no thread waits, or if the process keeps changing its memory.
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

/// Copies a whole set of a source that does not change meanwhile, without a userfaultfd. Calls `cancelled` between chunks.
pub fn copy_still(source: &Source, set: &CaptureSet, sink: &dyn Sink, cancelled: impl Fn() -> bool) -> Result<()> {
    let buffer = Pages::new(CHUNK_PAGES)?;
    for chunk in chunks(set) {
        if cancelled() {
            return Err(CaptureError::Cancelled);
        }
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

/// The set in pieces of at most [`CHUNK_PAGES`] pages: long runs are cut, short runs are combined.
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

/// Claims the parts of `chunk` that no other thread had claimed.
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
    let until = Instant::now() + PROTECT_MAX;
    let near = near(&sorted).into_iter();
    let mut ranges = near.flat_map(|(page, pages)| target.source.pages(page, pages));
    ranges.try_for_each(|range| {
        if Instant::now() > until {
            let why = format!("it took longer than {PROTECT_MAX:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        target.uffd.protect(range)
    })
}

/// Groups of pages near each other, as `(first page, pages)`.
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
