//! The thread that serves write faults while a range is protected.

use super::set::{CaptureSet, Claim};
use super::{Run, Sink, Target};
use crate::error::{PagerError, Result, Step};
use forkd_linux_sys::fds::{self, Bell, Wait};
use forkd_protocol::FaultCode;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Faults read a call.
const BATCH: usize = 64;

/// What a write fault means.
#[derive(Debug)]
pub enum Phase {
    /// Before the instant: the page is noted, and its protection lifted.
    Tracking { touched: Vec<u64> },
    /// After the instant: a page of the set is copied first.
    Capturing { set: Arc<CaptureSet> },
    /// Over: the protection is lifted.
    Released,
}

#[derive(Debug)]
struct Shared {
    target: Target,
    sink: Sink,
    /// Held for a batch of faults, and for a change of phase: never over the bulk copy or any I/O.
    phase: Mutex<Phase>,
    stop: Bell,
    failure: OnceLock<PagerError>,
    faults: AtomicU64,
    wait_max_ns: AtomicU64,
}

/// The handler's thread, and what it shares with the branch.
#[derive(Debug)]
pub struct Handler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Handler {
    pub fn start(target: Target, sink: Sink) -> Result<Handler> {
        let shared = Arc::new(Shared {
            target,
            sink,
            phase: Mutex::new(Phase::Tracking { touched: Vec::new() }),
            stop: Bell::new().step(|| "making an eventfd".into())?,
            failure: OnceLock::new(),
            faults: AtomicU64::new(0),
            wait_max_ns: AtomicU64::new(0),
        });
        let theirs = shared.clone();
        let thread = std::thread::Builder::new()
            .name("faults".into())
            .spawn(move || theirs.serve())
            .step(|| "starting the fault handler".into())?;
        Ok(Handler {
            shared,
            thread: Some(thread),
        })
    }

    /// Runs `change` while no fault is being served: all that were seen before have been dealt with.
    pub fn change_phase<T>(&self, change: impl FnOnce(&mut Phase) -> T) -> T {
        change(&mut self.shared.phase.lock().expect("no panic while held"))
    }

    /// The failure of a page's copy, if there was one.
    pub fn check(&self) -> Result<()> {
        self.shared.failure.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    pub fn faults(&self) -> u64 {
        self.shared.faults.load(Ordering::Relaxed)
    }

    pub fn wait_max(&self) -> Duration {
        Duration::from_nanos(self.shared.wait_max_ns.load(Ordering::Relaxed))
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
    fn serve(&self) {
        let mut pages = Vec::with_capacity(BATCH);
        loop {
            let waits = [Wait::readable(&*self.target.uffd), Wait::readable(&self.stop)];
            let ready = fds::wait(&waits, None).unwrap_or_else(|_| vec![true, false]);
            if ready[0] {
                self.serve_batch(&mut pages);
            }
            if ready[1] {
                return;
            }
        }
    }

    fn serve_batch(&self, pages: &mut Vec<u64>) {
        pages.clear();
        let mut phase = self.phase.lock().expect("no panic while held");
        let seen = Instant::now();
        let served = match self.target.uffd.read_faults(pages, BATCH) {
            Ok(_) => pages
                .iter()
                .try_for_each(|address| self.serve_page(&mut phase, self.target.source.page_of(*address))),
            Err(error) => Err(error),
        };
        if let Phase::Capturing { .. } = *phase {
            self.faults.fetch_add(pages.len() as u64, Ordering::Relaxed);
            self.wait_max_ns
                .fetch_max(seen.elapsed().as_nanos() as u64, Ordering::Relaxed);
        }
        if let Err(error) = served {
            self.fail(&mut phase, pages, &error);
        }
    }

    fn serve_page(&self, phase: &mut Phase, page: u64) -> io::Result<()> {
        match phase {
            Phase::Tracking { touched } => touched.push(page),
            Phase::Capturing { set } => {
                if let Some(rank) = set.rank(page) {
                    match set.claim(rank) {
                        Claim::Yours => {
                            self.target.source.read(
                                &self.sink,
                                &[Run {
                                    page,
                                    pages: 1,
                                    first_rank: rank,
                                }],
                            )?;
                            set.complete(rank);
                        }
                        // The bulk copy has it in hand, and wakes the writer when it lifts the protection.
                        Claim::Others => return Ok(()),
                        Claim::Done => {}
                    }
                }
            }
            Phase::Released => {}
        }
        self.target.uffd.unprotect(self.target.source.pages(page, 1))
    }

    /// The capture is lost, but the source must not be: whoever waits is let go, now and from now on.
    fn fail(&self, phase: &mut Phase, pages: &[u64], error: &io::Error) {
        let message = format!("serving a write fault of process {}: {error}", self.target.source.pid);
        let _ = self.failure.set(PagerError::new(FaultCode::VmGone, message));
        *phase = Phase::Released;
        for address in pages {
            // It fails only when the process has ended, and then nobody waits.
            let _ = self
                .target
                .uffd
                .unprotect(self.target.source.pages(self.target.source.page_of(*address), 1));
        }
    }
}
