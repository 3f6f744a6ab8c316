//! Statistics of the time that writes have waited.

use crate::set::Run;
use hdrhistogram::Histogram;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Times from the moment the handler sees a fault until its page is released.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WaitSummary {
    pub count: u64,
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

/// Longer waits count as this long.
const MAX_NS: u64 = 60_000_000_000;

/// The waits of a capture.
#[derive(Debug)]
pub(crate) struct Waits {
    /// Waits for pages that another thread reads: rank, and when the handler saw the fault.
    waiting: Mutex<Vec<(u64, Instant)>>,
    /// Nanoseconds.
    ended: Mutex<Histogram<u64>>,
}

impl Default for Waits {
    fn default() -> Waits {
        Waits {
            waiting: Mutex::default(),
            ended: Mutex::new(Histogram::new_with_max(MAX_NS, 2).expect("valid bounds and precision")),
        }
    }
}

impl Waits {
    /// The waits for pages that other threads read. Lock this only briefly.
    pub fn waiting(&self) -> MutexGuard<'_, Vec<(u64, Instant)>> {
        self.waiting.lock().expect("no panic while held")
    }

    pub fn record(&self, wait: Duration) {
        self.ended
            .lock()
            .expect("no panic while held")
            .saturating_record(wait.as_nanos() as u64);
    }

    /// Ends the waits for the pages of `run`.
    pub fn end(&self, run: Run) {
        let now = Instant::now();
        let ranks = run.first_rank..run.first_rank + run.pages;
        self.waiting().retain(|(rank, seen)| {
            let ended = ranks.contains(rank);
            if ended {
                self.record(now - *seen);
            }
            !ended
        });
    }

    pub fn summary(&self) -> WaitSummary {
        let ended = self.ended.lock().expect("no panic while held");
        WaitSummary {
            count: ended.len(),
            p50: Duration::from_nanos(ended.value_at_quantile(0.5)),
            p99: Duration::from_nanos(ended.value_at_quantile(0.99)),
            max: Duration::from_nanos(ended.max()),
        }
    }
}
