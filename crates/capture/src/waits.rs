//! How long writes have waited.

use crate::set::Run;
use hdrhistogram::Histogram;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Of the time from a fault being seen by the handler until its page was released.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WaitSummary {
    pub count: u64,
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

/// A longer wait counts as this long.
const MAX_NS: u64 = 60_000_000_000;

/// The waits of a capture.
#[derive(Debug)]
pub(crate) struct Waits {
    /// Those of which somebody else than the handler reads the page: rank, and when the fault was seen.
    waiting: Mutex<Vec<(u64, Instant)>>,
    /// In nanoseconds.
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
    /// The waits for pages that others read. Held for an instant only.
    pub fn waiting(&self) -> MutexGuard<'_, Vec<(u64, Instant)>> {
        self.waiting.lock().expect("no panic while held")
    }

    pub fn record(&self, wait: Duration) {
        self.ended
            .lock()
            .expect("no panic while held")
            .saturating_record(wait.as_nanos() as u64);
    }

    /// Whoever waited for a page of `run` waits no more.
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
