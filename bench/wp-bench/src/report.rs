//! Figures of a run.

use crate::waits::Quantiles;
use serde::Serialize;
use std::fmt;

/// The figures of one run. The stop itself, in which the reference copy is made, is in none of them but `take_us`.
///
/// The writers meet faults from `arm` until `finish`. Those after the instant are `fault_wait_us`: the page is read before
/// it is released. Those before it are `arm_wait_us`: the page is only noted and released, as in `bare_round_trip_us`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The memory that is captured, all of it private.
    pub region_mib: u64,
    /// Threads that write to it, each to pages of its own, as fast as they can.
    pub writers: u64,
    /// `WpBranch::arm`, the writers writing: `protect_ms` + `scan_ms` + `settle_ms`, and starting the fault handler.
    pub arm_ms: f64,
    /// `WpBranch::copy`, the writers writing, into a memfd by `pwrite`.
    pub copy_ms: f64,
    /// Pages captured by `WpBranch::copy`, and those captured earlier because a write to them waited. Together, all.
    pub pages_by_copy: u64,
    pub pages_by_fault: u64,
    /// Writes a second of all writers together, from the instant's end until `finish` has returned.
    pub writes_per_s: f64,
    /// Pages of which the capture differs from the reference copy, made while all writers were held at the instant.
    pub violations: u64,
    /// Writes that a writer did not find again when it came back to the page: lost by the source itself.
    pub lost_writes: u64,
    /// `WpBranch::take`: all that a stopped source waits for.
    pub take_us: f64,
    /// Pages that `take` has protected again.
    pub touched_pages: u64,
    /// How often touched pages were protected again before the instant, the writers writing.
    pub settle_rounds: u32,
    /// Parts of `arm_ms`: protecting all pages, listing the private ones, and the rounds.
    pub protect_ms: f64,
    pub scan_ms: f64,
    pub settle_ms: f64,
    /// `WpBranch::finish`.
    pub finish_ms: f64,
    /// Same as `writes_per_s`, for the same writers before anything was protected.
    pub writes_per_s_before: f64,
    /// How long writes that met a fault took after the instant, and how many there were. A writer times each of its writes;
    /// one that took a microsecond or more counts if the kernel has counted a page fault of the thread meanwhile.
    pub fault_wait_us: Quantiles,
    pub fault_waits: u64,
    /// The same before the instant.
    pub arm_wait_us: Quantiles,
    pub arm_waits: u64,
    /// The floor, timed in the same way: a write to a protected page of a small region, which another thread that does
    /// nothing else answers by poll, read and unprotect, on an otherwise idle process.
    pub bare_round_trip_us: Quantiles,
    /// `fault_wait_us` as a multiple of `bare_round_trip_us`.
    pub fault_wait_ratio: Ratio,
    /// `region_mib` by `copy_ms`.
    pub copy_mib_per_s: f64,
    /// `WpBranch::copy` of the same pages into a memfd by `pwrite`, nobody writing. Like the next two, the median of three.
    pub quiet_copy_mib_per_s: f64,
    /// The baseline: a loop in one thread that reads the same pages with `process_vm_readv`, 64 a call, nobody writing, into
    /// a mapping of a new memfd, whose pages come into being as they are written.
    pub readv_mib_per_s: f64,
    /// The same into one buffer that is used again for each call.
    pub readv_reused_mib_per_s: f64,
    /// Seed of the writers' pseudo-random choices.
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ratio {
    pub p50: f64,
    pub p99: f64,
}

impl Ratio {
    pub fn of(one: Quantiles, floor: Quantiles) -> Ratio {
        Ratio {
            p50: one.p50 / floor.p50,
            p99: one.p99 / floor.p99,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: String| writeln!(f, "{name:<34}{value}");
        let quantiles = |q: Quantiles| format!("p50 {:.1}  p99 {:.1}  max {:.1} us", q.p50, q.p99, q.max);
        let rate = |per_s: f64| format!("{:.2} million a second", per_s / 1e6);
        row(
            "region",
            format!("{} MiB, {} writers, seed {}", self.region_mib, self.writers, self.seed),
        )?;
        row(
            "arm",
            format!(
                "{:.2} ms (protect {:.2}, scan {:.2}, {} rounds {:.2})",
                self.arm_ms, self.protect_ms, self.scan_ms, self.settle_rounds, self.settle_ms
            ),
        )?;
        row(
            "take, the writers held",
            format!("{:.1} us, {} pages touched", self.take_us, self.touched_pages),
        )?;
        row(
            "copy",
            format!("{:.2} ms, {:.0} MiB/s", self.copy_ms, self.copy_mib_per_s),
        )?;
        row("finish", format!("{:.2} ms", self.finish_ms))?;
        row(
            "pages",
            format!("{} by copy, {} by fault", self.pages_by_copy, self.pages_by_fault),
        )?;
        row(
            "violations",
            format!("{}, {} writes lost", self.violations, self.lost_writes),
        )?;
        row("writes, unprotected", rate(self.writes_per_s_before))?;
        row("writes, while it is copied", rate(self.writes_per_s))?;
        row("a write's wait after the instant", quantiles(self.fault_wait_us))?;
        row("a write's wait before it", quantiles(self.arm_wait_us))?;
        row("a bare fault's round trip", quantiles(self.bare_round_trip_us))?;
        let ratio = self.fault_wait_ratio;
        row(
            "wait as a multiple of it",
            format!("p50 {:.2}  p99 {:.2}", ratio.p50, ratio.p99),
        )?;
        row(
            "copy, nobody writing",
            format!("{:.0} MiB/s", self.quiet_copy_mib_per_s),
        )?;
        row("readv into a new memfd", format!("{:.0} MiB/s", self.readv_mib_per_s))?;
        row(
            "readv into one buffer",
            format!("{:.0} MiB/s", self.readv_reused_mib_per_s),
        )
    }
}
