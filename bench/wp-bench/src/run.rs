//! A run: a capture beside writers, its figures, and the lower bounds, in the same process.

use crate::region::{MemfdSink, Region};
use crate::report::{Ratio, Report};
use crate::waits::Waits;
use crate::writers::{Met, Pace, Writers, with_writers};
use crate::{bare, quiet};
use forkd_capture::{Statistics, WpBranch};
use forkd_linux_sys::PAGE_SIZE;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

pub const PAGES_A_MIB: u64 = (1 << 20) / PAGE_SIZE as u64;
const SEED: u64 = 1;
/// Time that the writers write before anything is protected.
const BEFORE: Duration = Duration::from_millis(300);

/// Findings of a capture beside writers.
struct Capture {
    writes_per_s_before: f64,
    arm: Duration,
    take: Duration,
    copy: Duration,
    finish: Duration,
    writes_per_s: f64,
    statistics: Statistics,
    violations: u64,
}

pub fn run(region_mib: u64, writers: u64) -> Result<Report> {
    let region = Region::new(region_mib * PAGES_A_MIB)?;
    let pace = Pace {
        writers,
        seed: SEED,
        writes_per_s: None,
    };
    let (capture, met) = with_writers(&region, pace, |writers| capture(&region, writers));
    let capture = capture?;
    let statistics = capture.statistics;
    let after = all(&met, |met| &met.after);
    let before = all(&met, |met| &met.before);
    let bare = bare::round_trips(SEED)?.quantiles();
    Ok(Report {
        region_mib,
        writers,
        arm_ms: ms(capture.arm),
        copy_ms: ms(capture.copy),
        pages_by_copy: statistics.pages_by_copy,
        pages_by_fault: statistics.pages_by_fault,
        writes_per_s: capture.writes_per_s,
        violations: capture.violations,
        lost_writes: met.iter().map(|met| met.lost_writes).sum(),
        take_us: us(capture.take),
        touched_pages: statistics.touched_pages,
        settle_rounds: statistics.rounds,
        protect_ms: ms(statistics.arm),
        scan_ms: ms(statistics.scan),
        settle_ms: ms(statistics.settle),
        finish_ms: ms(capture.finish),
        writes_per_s_before: capture.writes_per_s_before,
        fault_wait_us: after.quantiles(),
        fault_waits: after.count(),
        arm_wait_us: before.quantiles(),
        arm_waits: before.count(),
        bare_round_trip_us: bare,
        fault_wait_ratio: Ratio::of(after.quantiles(), bare),
        copy_mib_per_s: quiet::mib_per_s(region.bytes().len(), capture.copy),
        quiet_copy_mib_per_s: quiet::copy_mib_per_s(&region)?,
        readv_mib_per_s: quiet::readv_mib_per_s(&region)?,
        readv_reused_mib_per_s: quiet::readv_reused_mib_per_s(&region)?,
        seed: SEED,
    })
}

fn capture(region: &Region, writers: &Writers<'_>) -> Result<Capture> {
    let target = region.target()?;
    let sink = Arc::new(MemfdSink::new(region.pages())?);
    writers.run_on();
    let (writes_per_s_before, ()) = writers.writes_per_s(|| std::thread::sleep(BEFORE));
    let (arm, branch) = timed(|| WpBranch::arm(target, sink.clone()));
    let mut branch = branch?;
    writers.hold();
    let (take, taken) = timed(|| branch.take());
    taken?;
    let reference = region.bytes().to_vec();
    writers.note_instant();
    writers.run_on();
    let (writes_per_s, copied) = writers.writes_per_s(|| {
        let (copy, copied) = timed(|| branch.copy(|| false));
        let (finish, finished) = timed(|| copied.and_then(|()| branch.finish()));
        finished.map(|(_, statistics)| (copy, finish, statistics))
    });
    let (copy, finish, statistics) = copied?;
    Ok(Capture {
        writes_per_s_before,
        arm,
        take,
        copy,
        finish,
        writes_per_s,
        statistics,
        violations: sink.differing_pages(&reference)?,
    })
}

fn all(met: &[Met], which: impl Fn(&Met) -> &Waits) -> Waits {
    let mut all = Waits::default();
    met.iter().for_each(|met| all.add(which(met)));
    all
}

/// How long `body` takes.
pub fn timed<T>(body: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = body();
    (start.elapsed(), result)
}

pub fn ms(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e6
}

pub fn us(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e3
}
