//! The thread that serves write faults while a range is protected.

use crate::error::{CaptureError, Result, Step};
use crate::phase::{Phase, Service};
use crate::queue::FaultQueue;
use crate::set::{CaptureSet, Run};
use crate::sink::Sink;
use crate::source::{Pages, Target};
use crate::waits::{WaitSummary, Waits};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::fds::{self, EventFd, Wait};
use forkd_linux_sys::sched::Urgent;
use forkd_linux_sys::uffd::Range;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most faults per batch.
const BATCH: usize = 64;
/// Pause before the next attempt to wait for faults, after a system error.
const WAIT_RETRY: Duration = Duration::from_millis(1);

/// State that the handler's thread shares with the branch, and with callers that read pages early.
pub(crate) struct Shared {
    target: Target,
    /// The source of faults, if not the userfaultfd itself.
    queue: Option<Arc<FaultQueue>>,
    sink: Arc<dyn Sink>,
    /// Locked while faults are served up to their release, and for a change of phase. Never locked during the bulk
    /// copy, nor while the sink receives pages.
    phase: Mutex<Phase>,
    /// Locked from before a page is claimed until the sink has it.
    keeping: Mutex<()>,
    stop: EventFd,
    failure: OnceLock<CaptureError>,
    pages: AtomicU64,
    waits: Waits,
}

/// The handler's thread.
pub(crate) struct Handler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Handler {
    pub fn start(target: Target, queue: Option<Arc<FaultQueue>>, sink: Arc<dyn Sink>) -> Result<Handler> {
        let shared = Arc::new(Shared {
            target,
            queue,
            sink,
            phase: Mutex::new(Phase::Tracking { touched: Vec::new() }),
            keeping: Mutex::default(),
            stop: EventFd::new().step(|| "making an eventfd".into())?,
            failure: OnceLock::new(),
            pages: AtomicU64::new(0),
            waits: Waits::default(),
        });
        let buffer = Pages::new(BATCH as u64)?;
        let theirs = shared.clone();
        let thread = std::thread::Builder::new()
            .name("faults".into())
            .spawn(move || theirs.serve(&buffer))
            .step(|| "starting the fault handler".into())?;
        Ok(Handler {
            shared,
            thread: Some(thread),
        })
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Runs `change` while no fault is being served: all faults seen before have been handled.
    pub fn change_phase<T>(&self, change: impl FnOnce(&mut Phase) -> T) -> T {
        change(&mut self.shared.phase())
    }

    /// Waits until the sink has every page that the handler has claimed.
    pub fn wait_for_kept(&self) {
        drop(self.shared.keeping());
    }

    /// The failure of a page's copy, if any.
    pub fn check(&self) -> Result<()> {
        self.shared.failure().map_or(Ok(()), Err)
    }

    /// Ends the waits for the pages of `run`, which have been released.
    pub fn note_released(&self, run: Run) {
        self.shared.waits.end(run);
    }

    /// Number of pages that the handler has copied.
    pub fn pages(&self) -> u64 {
        self.shared.pages.load(Ordering::Relaxed)
    }

    pub fn waits(&self) -> WaitSummary {
        self.shared.waits.summary()
    }

    /// Ends the thread. Nothing may be protected any more, or a write would wait forever.
    pub fn stop(&mut self) {
        self.shared.stop.signal();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the fault handler does not panic");
        }
    }
}

impl Shared {
    /// Locks the phase, after recording all pages that are known to have been freed.
    pub fn phase(&self) -> MutexGuard<'_, Phase> {
        let mut phase = self.phase.lock().expect("no panic while held");
        self.note_removed(&mut phase);
        phase
    }

    /// Lock this from before a page is claimed until the sink has it.
    pub fn keeping(&self) -> MutexGuard<'_, ()> {
        self.keeping.lock().expect("no panic while held")
    }

    pub fn failure(&self) -> Option<CaptureError> {
        self.failure.get().cloned()
    }

    /// Reads pages that the caller has claimed since it locked the phase, and makes them writable again.
    pub fn read_and_release(
        &self,
        mut phase: MutexGuard<'_, Phase>,
        set: &CaptureSet,
        runs: &[Run],
        buffer: &Pages,
    ) -> Result<()> {
        let Target { source, uffd } = &self.target;
        let read = source.read(runs, buffer, 0).and_then(|()| {
            runs.iter().try_for_each(|run| {
                set.note_read(run.first_rank);
                let mut memory = source.pages(run.page, run.pages);
                memory.try_for_each(|range| uffd.unprotect(range))?;
                self.waits.end(*run);
                Ok(())
            })
        });
        if let Err(error) = read {
            let step = format!("reading the memory of process {} out of turn", source.pid);
            self.fail(&mut phase, &[], step, error);
            return Err(self.failure().expect("it has just failed"));
        }
        Ok(())
    }

    fn serve(&self, buffer: &Pages) {
        // Writers are blocked until this thread has served them, which takes microseconds.
        let _urgent = Urgent::this_thread();
        let mut faults = Vec::with_capacity(BATCH);
        let mut read = Vec::with_capacity(BATCH);
        let mut is_usable = true;
        loop {
            let faulted = match &self.queue {
                Some(queue) => Wait::readable(&**queue),
                None => Wait::readable(&*self.target.uffd),
            };
            let waits = [Wait::readable(&self.stop), faulted];
            // A userfaultfd that cannot be waited for is always ready.
            let waits = if is_usable { &waits[..] } else { &waits[..1] };
            let Ok(ready) = fds::look(waits, None) else {
                // Memory is short, if anything. Ending the thread here would leave writers waiting forever.
                std::thread::sleep(WAIT_RETRY);
                continue;
            };
            if ready.get(1).is_some_and(|faulted| faulted.failed) {
                is_usable = false;
                self.fail_unusable();
            } else if ready.get(1).is_some_and(|faulted| faulted.is_any()) {
                let _keeping = self.keeping();
                let set = self.release_batch(&mut faults, buffer, &mut read);
                // Keep the pages only now that no writer waits any more.
                if let Some(set) = set {
                    self.keep(&set, buffer, &read);
                }
            }
            if ready[0].is_any() {
                return;
            }
        }
    }

    /// Records that the process has made its userfaultfd blocking, so that its faults cannot be waited for.
    fn fail_unusable(&self) {
        let why = "it was made to block by the process that it came from";
        let step = format!("waiting for faults of process {}", self.target.source.pid);
        self.fail(&mut self.phase(), &[], step, io::Error::other(why));
    }

    /// Serves the waiting faults up to their release. Returns the set if pages have been `read` into the buffer.
    fn release_batch(&self, faults: &mut Vec<u64>, buffer: &Pages, read: &mut Vec<Run>) -> Option<Arc<CaptureSet>> {
        faults.clear();
        read.clear();
        let seen = Instant::now();
        // Read before locking the phase: the thread that holds it may be waiting for the kernel, which waits for this
        // read. Serving a fault in a later phase is the same as a later fault.
        let has_read = self.read_faults(faults);
        let mut phase = self.phase();
        let served = has_read.and_then(|()| {
            let mut pages = faults.iter().map(|address| self.target.source.page_of(*address));
            pages.try_for_each(|page| self.serve_page(&mut phase, page?, seen, buffer, read))
        });
        if let Err(error) = served {
            self.fail(
                &mut phase,
                faults,
                format!("serving a write fault of process {}", self.target.source.pid),
                error,
            );
            return None;
        }
        match &*phase {
            Phase::Capturing { set } if !read.is_empty() => Some(set.clone()),
            _ => None,
        }
    }

    fn read_faults(&self, faults: &mut Vec<u64>) -> io::Result<()> {
        match &self.queue {
            Some(queue) => queue.read_writes(faults, BATCH),
            None => _ = self.target.uffd.read_faults(faults, BATCH)?,
        }
        Ok(())
    }

    /// Records freed pages. Before the instant they count as written. After it their content is lost, and the capture
    /// fails if a page of the set is among them.
    fn note_removed(&self, phase: &mut Phase) {
        let Some(queue) = &self.queue else { return };
        for pages in queue.take_removed() {
            match phase {
                Phase::Tracking { touched } => touched.extend(pages),
                Phase::Capturing { set } if pages.clone().any(|page| set.rank(page).is_some()) => {
                    let step = format!("copying pages {} to {} in time", pages.start, pages.end);
                    let why = "the source gave them back while it was captured";
                    self.fail(phase, &[], step, io::Error::other(why));
                }
                Phase::Capturing { .. } | Phase::Released => {}
            }
        }
    }

    fn serve_page(
        &self,
        phase: &mut Phase,
        page: u64,
        seen: Instant,
        buffer: &Pages,
        read: &mut Vec<Run>,
    ) -> io::Result<()> {
        // Locked before the claim: the reader of the page then cannot report its release before the wait is noted.
        let mut waiting = self.waits.waiting();
        match phase.fault(page) {
            Service::Leave { rank } => {
                waiting.push((rank, seen));
                return Ok(());
            }
            Service::ReadAndRelease { rank } => {
                let run = Run {
                    page,
                    pages: 1,
                    first_rank: rank,
                };
                self.target.source.read(&[run], buffer, read.len() as u64)?;
                if let Phase::Capturing { set } = phase {
                    set.note_read(rank);
                }
                read.push(run);
            }
            Service::Release => {}
        }
        drop(waiting);
        let mut memory = self.target.source.pages(page, 1);
        memory.try_for_each(|range| self.target.uffd.unprotect(range))?;
        if matches!(phase, Phase::Capturing { .. }) {
            self.waits.record(seen.elapsed());
        }
        Ok(())
    }

    /// Gives the sink the pages that were read.
    pub fn keep(&self, set: &CaptureSet, buffer: &Pages, read: &[Run]) {
        for (index, run) in read.iter().enumerate() {
            if let Err(error) = self.sink.put(*run, buffer.bytes(index as u64, 1)) {
                let mut phase = self.phase.lock().expect("no panic while held");
                let at = run.page * PAGE_SIZE as u64;
                return self.fail(
                    &mut phase,
                    &[],
                    format!("keeping the page at {at:#x} of a capture"),
                    error,
                );
            }
            set.complete(run.first_rank);
        }
        self.pages.fetch_add(read.len() as u64, Ordering::Relaxed);
    }

    /// Records that the capture has failed. The source must survive: all waiting writers are released, now and from now on.
    fn fail(&self, phase: &mut Phase, faults: &[u64], step: String, error: io::Error) {
        let _ = self.failure.set(CaptureError::Os {
            step,
            cause: Arc::new(error),
        });
        *phase = Phase::Released;
        for &start in faults {
            let end = start + PAGE_SIZE as u64;
            // Fails if the process has ended, and then no thread waits, or if the process keeps changing its memory.
            if self.target.uffd.unprotect(Range { start, end }).is_err() {
                break;
            }
        }
    }
}
