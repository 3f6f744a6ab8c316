//! Counts of what was done, and how long threads waited for it.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A longer wait counts as this long.
const WAIT_NS_MAX: u64 = 60_000_000_000;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counts as they are taken.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub $name: AtomicU64),* }

        /// Counts, and waits, as they were at a moment.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
        pub struct Summary { $($(#[$doc])* pub $name: u64,)* pub wait: WaitSummary }

        impl Counters {
            fn summary(&self, wait: WaitSummary) -> Summary {
                Summary { $($name: self.$name.load(Ordering::Relaxed),)* wait }
            }

            fn add(&self, other: &Counters) {
                $(self.$name.fetch_add(other.$name.load(Ordering::Relaxed), Ordering::Relaxed);)*
            }
        }
    };
}

counters! {
    /// Reported by the kernel.
    faults,
    /// Pages of 4 KiB that were copied, mapped from the template itself, and made zeros.
    copied, shared, zeroed,
    /// Bytes that were copied.
    bytes,
    /// Pages among those that were filled ahead of faults: by a record, and to populate all of memory.
    prefetched, populated,
    /// Faults for which the template had to be read, and faults whose page was already there.
    fetched, already_there,
    /// Times that a fault had to be put off because the memory was changing, or its page was on its way to the
    /// template.
    parked,
    /// Pages that the guest freed, counted each time.
    removed,
    /// Pages that are unavailable: a thread that touches one gets `SIGBUS`.
    poisoned,
    /// Times that a read of the template was tried again.
    retries,
}

/// How long threads waited: from the moment a fault was read until its page was there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct WaitSummary {
    pub count: u64,
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub max_ns: u64,
}

/// The statistics of one fork, or of all together.
#[derive(Debug)]
pub(crate) struct Stats {
    pub counters: Counters,
    waits: Mutex<Histogram<u64>>,
}

impl Default for Stats {
    fn default() -> Stats {
        Stats {
            counters: Counters::default(),
            waits: Mutex::new(Histogram::new_with_max(WAIT_NS_MAX, 2).expect("valid bounds and precision")),
        }
    }
}

impl Stats {
    pub fn waited(&self, wait: Duration) {
        let mut waits = self.waits.lock().expect("no panic while held");
        waits.saturating_record(wait.as_nanos() as u64);
    }

    pub fn summary(&self) -> Summary {
        let waits = self.waits.lock().expect("no panic while held");
        self.counters.summary(WaitSummary {
            count: waits.len(),
            p50_ns: waits.value_at_quantile(0.5),
            p99_ns: waits.value_at_quantile(0.99),
            max_ns: waits.max(),
        })
    }

    /// Adds what another one has had.
    pub fn add(&self, other: &Stats) {
        self.counters.add(&other.counters);
        let theirs = other.waits.lock().expect("no panic while held").clone();
        let mut waits = self.waits.lock().expect("no panic while held");
        waits.add(theirs).expect("they have the same bounds");
    }
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
