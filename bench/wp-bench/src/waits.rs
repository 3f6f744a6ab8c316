//! Time that writes waited for a fault, as the writer sees it.

use forkd_linux_sys::process::thread_faults;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::{Duration, Instant};

/// No write that meets a fault is faster: it takes at least a trap, and the waking of another thread and of this one.
const FAULT_MIN: Duration = Duration::from_micros(1);
/// A longer wait counts as one of this length.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Times the writes of the thread that it was made in, and tells those that met a fault from those that only were slow.
///
/// Each write is timed by reading the clock once behind it. One that took a microsecond or more may have met a fault, or
/// its thread may have been preempted: the kernel's count of the thread's page faults tells. Since all memory that the
/// thread uses has been populated before, there is no other reason for a fault than the protection.
pub struct Stopwatch {
    last: Instant,
    faults: u64,
}

impl Stopwatch {
    pub fn start() -> Stopwatch {
        Stopwatch {
            last: Instant::now(),
            faults: faults(),
        }
    }

    /// Call this after each write. Adds the wait to `waits` if the write met a fault.
    pub fn lap(&mut self, waits: &mut Waits) {
        let now = Instant::now();
        let took = now - self.last;
        self.last = now;
        if took >= FAULT_MIN {
            self.judge(took, waits);
        }
    }

    #[cold]
    fn judge(&mut self, took: Duration, waits: &mut Waits) {
        if faults() > self.faults {
            waits.record(took);
        }
        // Recording may have met a fault itself, and has taken its time.
        *self = Stopwatch::start();
    }
}

fn faults() -> u64 {
    thread_faults().expect("every kernel counts a thread's faults")
}

/// Waits, in nanoseconds.
pub struct Waits {
    histogram: Histogram<u64>,
}

/// Percentiles in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Default for Waits {
    fn default() -> Waits {
        Waits {
            histogram: Histogram::new_with_max(WAIT_MAX.as_nanos() as u64, 3).expect("valid bounds and precision"),
        }
    }
}

impl Waits {
    pub fn record(&mut self, wait: Duration) {
        self.histogram.saturating_record(wait.as_nanos() as u64);
    }

    pub fn add(&mut self, other: &Waits) {
        self.histogram.add(&other.histogram).expect("the same bounds");
    }

    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    pub fn quantiles(&self) -> Quantiles {
        let us = |nanos: u64| nanos as f64 / 1e3;
        Quantiles {
            p50: us(self.histogram.value_at_quantile(0.5)),
            p99: us(self.histogram.value_at_quantile(0.99)),
            max: us(self.histogram.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forkd_linux_sys::memfd::Mapping;

    const SLOW: Duration = Duration::from_millis(2);

    #[test]
    fn a_slow_write_counts_only_if_it_met_a_fault() {
        let memory = Mapping::anonymous(2 << 20).expect("map");
        let mut waits = Waits::default();
        let mut watch = Stopwatch::start();
        memory.write(0, &[1]);
        std::thread::sleep(SLOW);
        watch.lap(&mut waits);
        assert_eq!(waits.count(), 1, "the page was not there yet");
        // A page that the kernel has moved meanwhile meets a fault once more.
        let met_none = (0..20).any(|_| {
            let before = waits.count();
            memory.write(0, &[2]);
            std::thread::sleep(SLOW);
            watch.lap(&mut waits);
            waits.count() == before
        });
        assert!(met_none, "the page was there");
        assert!(waits.quantiles().max >= 2000.0);
    }
}
