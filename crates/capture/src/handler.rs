//! The thread that serves write faults while a range is protected.

use crate::branch::BATCH;
use crate::error::{CaptureError, Result, Step};
use crate::phase::{Phase, Service};
use crate::queue::FaultQueue;
use crate::set::{CaptureSet, Run};
use crate::sink::Sink;
use crate::source::{Pages, Target};
use crate::waits::{WaitSummary, Waits};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::fds::{self, Bell, Wait};
use forkd_linux_sys::sched::Urgent;
use forkd_linux_sys::uffd::Range;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Until the system is asked again that could not wait for faults.
const WAIT_RETRY: Duration = Duration::from_millis(1);

/// What the handler's thread shares with the branch, and with those who ask for pages out of turn.
pub(crate) struct Shared {
    target: Target,
    /// Where faults come from, if not from the userfaultfd itself.
    queue: Option<Arc<FaultQueue>>,
    sink: Arc<dyn Sink>,
    /// Held while faults are served up to their release, and for a change of phase: never over the bulk copy, nor while
    /// the sink is given pages.
    phase: Mutex<Phase>,
    /// Held from before a page is claimed until the sink has it.
    keeping: Mutex<()>,
    stop: Bell,
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
            stop: Bell::new().step(|| "making an eventfd".into())?,
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

    /// Runs `change` while no fault is being served: all that were seen before have been dealt with.
    pub fn change_phase<T>(&self, change: impl FnOnce(&mut Phase) -> T) -> T {
        change(&mut self.shared.phase())
    }

    /// Waits until the sink has every page that the handler has claimed.
    pub fn wait_for_kept(&self) {
        drop(self.shared.keeping());
    }

    /// The failure of a page's copy, if there was one.
    pub fn check(&self) -> Result<()> {
        self.shared.failure().map_or(Ok(()), Err)
    }

    /// The pages of `run` have been released: whoever waited for one of them goes on.
    pub fn note_released(&self, run: Run) {
        self.shared.waits.end(run);
    }

    /// The pages that it has copied.
    pub fn pages(&self) -> u64 {
        self.shared.pages.load(Ordering::Relaxed)
    }

    pub fn waits(&self) -> WaitSummary {
        self.shared.waits.summary()
    }

    /// Ends the thread. Nothing may be protected any more, else a write would wait for ever.
    pub fn stop(&mut self) {
        self.shared.stop.ring();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the fault handler does not panic");
        }
    }
}

impl Shared {
    /// The phase, with all that is known to have been given back taken note of.
    pub fn phase(&self) -> MutexGuard<'_, Phase> {
        let mut phase = self.phase.lock().expect("no panic while held");
        self.note_removed(&mut phase);
        phase
    }

    /// To be held from before a page is claimed until the sink has it.
    pub fn keeping(&self) -> MutexGuard<'_, ()> {
        self.keeping.lock().expect("no panic while held")
    }

    pub fn failure(&self) -> Option<CaptureError> {
        self.failure.get().cloned()
    }

    /// Reads pages that the caller has claimed since it locked the phase, and lets them be written.
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
        // Whoever waits for it cannot go on, and it is done in microseconds.
        let _urgent = Urgent::this_thread();
        let mut faults = Vec::with_capacity(BATCH);
        let mut read = Vec::with_capacity(BATCH);
        loop {
            let faulted = match &self.queue {
                Some(queue) => Wait::readable(&**queue),
                None => Wait::readable(&*self.target.uffd),
            };
            let waits = [faulted, Wait::readable(&self.stop)];
            let Ok(ready) = fds::wait(&waits, None) else {
                // For want of memory, if anything: to end here would leave writers waiting for ever.
                std::thread::sleep(WAIT_RETRY);
                continue;
            };
            if ready[0] {
                let _keeping = self.keeping();
                let set = self.release_batch(&mut faults, buffer, &mut read);
                // Only now that nobody waits any more.
                if let Some(set) = set {
                    self.keep(&set, buffer, &read);
                }
            }
            if ready[1] {
                return;
            }
        }
    }

    /// Serves the faults that wait, up to their release. Returns the set when pages have been `read` into the buffer.
    fn release_batch(&self, faults: &mut Vec<u64>, buffer: &Pages, read: &mut Vec<Run>) -> Option<Arc<CaptureSet>> {
        faults.clear();
        read.clear();
        let mut phase = self.phase();
        let seen = Instant::now();
        let served = self.read_faults(faults).and_then(|()| {
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

    /// Takes note of pages that were given back. Before the instant they are like any that were written. After it their
    /// content is lost, unless nobody needs it.
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
        // Held from before the claim: whoever reads the page now cannot tell of its release before it is noted as waited for.
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

    /// Gives the sink what was read.
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

    /// The capture is lost, but the source must not be: whoever waits is let go, now and from now on.
    fn fail(&self, phase: &mut Phase, faults: &[u64], step: String, error: io::Error) {
        let _ = self.failure.set(CaptureError::Os {
            step,
            cause: Arc::new(error),
        });
        *phase = Phase::Released;
        for &start in faults {
            let end = start + PAGE_SIZE as u64;
            // It fails only when the process has ended, and then nobody waits.
            let _ = self.target.uffd.unprotect(Range { start, end });
        }
    }
}
