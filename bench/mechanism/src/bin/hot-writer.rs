//! How does the work inside the instant depend on how fast the source writes, and on how large it is? A capture that prepares
//! the instant in rounds, and one that protects once and again only what was touched, of the same writers in turn. Prints a
//! JSON document; the README beside this says what each figure is.

use forkd_capture::{CaptureSet, Target, WpBranch};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::fds::{self, EventFd, Wait};
use forkd_linux_sys::uffd::Range;
use forkd_mechanism::{Result, Spread, print};
use forkd_wp_bench::region::{MemfdSink, Region};
use forkd_wp_bench::run::{PAGES_A_MIB, ms, timed, us};
use forkd_wp_bench::writers::{Pace, Writers, with_writers};
use serde::Serialize;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const TRIES: usize = 7;
const REGIONS_MIB: [u64; 3] = [64, 256, 1024];
const PACES: [Option<f64>; 4] = [Some(20_000.0), Some(200_000.0), Some(2_000_000.0), None];
const WRITERS: u64 = 2;
/// Time that the writers write before each try.
const BEFORE: Duration = Duration::from_millis(50);
/// The same constants as in `WpBranch`: bytes per call of the protection, and the gap up to which pages are protected together.
const STEP_BYTES: usize = 64 << 20;
const JOIN_PAGES: u64 = 32;

/// A try.
struct Try {
    writes_per_s: f64,
    arm: Duration,
    take: Duration,
    touched_pages: u64,
    settle_rounds: u32,
}

#[derive(Serialize)]
struct Row {
    region_mib: u64,
    /// Requested rate of the writers. Without one they write as fast as they can.
    pace_per_s: Option<f64>,
    /// Rate of the writers before anything was protected.
    writes_per_s: Spread,
    rounds: bool,
    arm_ms: Spread,
    take_us: Spread,
    touched_pages: Spread,
    settle_rounds: Spread,
}

fn main() -> Result<()> {
    let mut rows = Vec::new();
    for region_mib in REGIONS_MIB {
        let region = Region::new(region_mib * PAGES_A_MIB)?;
        for writes_per_s in PACES {
            let pace = Pace {
                writers: WRITERS,
                seed: 1,
                writes_per_s,
            };
            let (tries, _) = with_writers(&region, pace, |writers| in_turn(&region, writers));
            let (with, without) = tries?;
            rows.push(row(region_mib, writes_per_s, false, &without));
            rows.push(row(region_mib, writes_per_s, true, &with));
        }
    }
    print(TRIES, rows)
}

fn row(region_mib: u64, pace_per_s: Option<f64>, rounds: bool, tries: &[Try]) -> Row {
    let spread = |figure: fn(&Try) -> f64| Spread::of(tries.iter().map(figure));
    Row {
        region_mib,
        pace_per_s,
        writes_per_s: spread(|t| t.writes_per_s.round()),
        rounds,
        arm_ms: spread(|t| ms(t.arm)),
        take_us: spread(|t| us(t.take)),
        touched_pages: spread(|t| t.touched_pages as f64),
        settle_rounds: spread(|t| t.settle_rounds.into()),
    }
}

/// The tries with rounds, and those without.
fn in_turn(region: &Region, writers: &Writers<'_>) -> Result<(Vec<Try>, Vec<Try>)> {
    let target = region.target()?;
    target.uffd.register_write_protect(target.source.range())?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..TRIES {
        with.push(with_rounds(&target, writers)?);
        without.push(without_rounds(&target, writers)?);
    }
    Ok((with, without))
}

/// Lets held writers run on for a while; says how fast they were.
fn run_on(writers: &Writers<'_>) -> f64 {
    writers.run_on();
    writers.writes_per_s(|| std::thread::sleep(BEFORE)).0
}

fn with_rounds(target: &Target, writers: &Writers<'_>) -> Result<Try> {
    let writes_per_s = run_on(writers);
    let sink = Arc::new(MemfdSink::new(target.source.range().len() / PAGE_SIZE as u64)?);
    let (arm, branch) = timed(|| WpBranch::arm(target.clone(), sink));
    let mut branch = branch?;
    writers.hold();
    let (take, taken) = timed(|| branch.take());
    taken?;
    Ok(Try {
        writes_per_s,
        arm,
        take,
        touched_pages: branch.statistics().touched_pages,
        settle_rounds: branch.statistics().rounds,
    })
}

/// Protects all, lists the private pages, and inside the stop protects again what was touched since.
fn without_rounds(target: &Target, writers: &Writers<'_>) -> Result<Try> {
    let writes_per_s = run_on(writers);
    let touched = Mutex::new(Vec::new());
    let end = EventFd::new()?;
    std::thread::scope(|scope| {
        let noting = scope.spawn(|| note_faults(target, &touched, &end));
        let outcome = protect_once(target, writers, &touched);
        // Wake every writer, whatever has happened.
        target.uffd.unprotect(target.source.range())?;
        end.signal();
        noting.join().expect("it does not panic")?;
        let (arm, take, touched_pages) = outcome?;
        Ok(Try {
            writes_per_s,
            arm,
            take,
            touched_pages,
            settle_rounds: 0,
        })
    })
}

/// How long the arming and the work inside the stop took, and how many pages had been touched.
fn protect_once(
    target: &Target,
    writers: &Writers<'_>,
    touched: &Mutex<Vec<u64>>,
) -> Result<(Duration, Duration, u64)> {
    let start = Instant::now();
    let range = target.source.range();
    for start in (range.start..range.end).step_by(STEP_BYTES) {
        let end = (start + STEP_BYTES as u64).min(range.end);
        target.uffd.protect(Range { start, end })?;
    }
    let mut set = CaptureSet::new(&target.source.own_pages_protected()?);
    let arm = start.elapsed();
    writers.hold();
    let (take, taken) = timed(|| {
        let mut touched = touched.lock().expect("no panic while held");
        touched.sort_unstable();
        for (page, pages) in near(&touched) {
            for range in target.source.pages(page, pages) {
                target.uffd.protect(range)?;
            }
        }
        let count = touched.len() as u64;
        set.touch(std::mem::take(&mut touched));
        Ok::<u64, io::Error>(count)
    });
    Ok((arm, take, taken?))
}

/// Notes each page that is written to, and lets it go.
fn note_faults(target: &Target, touched: &Mutex<Vec<u64>>, end: &EventFd) -> io::Result<()> {
    let mut faults = Vec::new();
    loop {
        let ready = fds::wait(&[Wait::readable(&*target.uffd), Wait::readable(end)], None)?;
        if ready[0] {
            faults.clear();
            let mut touched = touched.lock().expect("no panic while held");
            target.uffd.read_faults(&mut faults, 64)?;
            for address in &faults {
                let page = target.source.page_of(*address)?;
                touched.push(page);
                for range in target.source.pages(page, 1) {
                    target.uffd.unprotect(range)?;
                }
            }
        }
        if ready[1] {
            return Ok(());
        }
    }
}

/// Pages that lie near to each other, as `(first page, pages)`.
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
