//! Question: how do transparent huge pages affect a branch? The same memory, with and without them, is armed, written to, taken and
//! copied. Prints a JSON document; the README beside this says what each figure is.

use forkd_capture::WpBranch;
use forkd_linux_sys::PAGE_SIZE;
use forkd_mechanism::{Result, Spread, print};
use forkd_wp_bench::random::Random;
use forkd_wp_bench::region::{MemfdSink, Region};
use forkd_wp_bench::run::{PAGES_A_MIB, ms, timed, us};
use forkd_wp_bench::waits::{Stopwatch, Waits};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const TRIES: usize = 7;
const REGION_MIB: u64 = 512;
/// Pages in a huge page.
const BLOCK: u64 = 512;
/// Pages of each block that are written to after the first.
const NEXT_PAGES: u64 = 8;
/// Few enough that `take` finds all of them touched: no round of `settle` is worth so few.
const TAKEN_PAGES: u64 = 16;
const RANDOM_WRITES: u64 = 2_000_000;

/// A try.
struct Try {
    huge_mib_before: f64,
    huge_mib_after: f64,
    populate_ms: f64,
    protect_ms: f64,
    scan_ms: f64,
    first_write_us: f64,
    next_write_us: f64,
    take_us: f64,
    copy_ms: f64,
    finish_ms: f64,
    write_ns_before: f64,
    write_ns_after: f64,
}

#[derive(Serialize)]
struct Row {
    huge_pages: bool,
    region_mib: u64,
    huge_mib_before: Spread,
    huge_mib_after: Spread,
    populate_ms: Spread,
    protect_ms: Spread,
    scan_ms: Spread,
    first_write_us: Spread,
    next_write_us: Spread,
    take_us: Spread,
    copy_ms: Spread,
    finish_ms: Spread,
    write_ns_before: Spread,
    write_ns_after: Spread,
}

fn main() -> Result<()> {
    let rows = [true, false].map(row).into_iter().collect::<Result<_>>()?;
    print(TRIES, rows)
}

fn row(huge_pages: bool) -> Result<Row> {
    let tries: Vec<Try> = (0..TRIES).map(|_| attempt(huge_pages)).collect::<Result<_>>()?;
    let spread = |figure: fn(&Try) -> f64| Spread::of(tries.iter().map(figure));
    Ok(Row {
        huge_pages,
        region_mib: REGION_MIB,
        huge_mib_before: spread(|t| t.huge_mib_before),
        huge_mib_after: spread(|t| t.huge_mib_after),
        populate_ms: spread(|t| t.populate_ms),
        protect_ms: spread(|t| t.protect_ms),
        scan_ms: spread(|t| t.scan_ms),
        first_write_us: spread(|t| t.first_write_us),
        next_write_us: spread(|t| t.next_write_us),
        take_us: spread(|t| t.take_us),
        copy_ms: spread(|t| t.copy_ms),
        finish_ms: spread(|t| t.finish_ms),
        write_ns_before: spread(|t| t.write_ns_before),
        write_ns_after: spread(|t| t.write_ns_after),
    })
}

fn attempt(huge_pages: bool) -> Result<Try> {
    let region = Region::anonymous(REGION_MIB * PAGES_A_MIB, huge_pages)?;
    let (populate, ()) = timed(|| (0..region.pages()).for_each(|page| write(&region, page)));
    let write_ns_before = random_write_ns(&region);
    let huge_mib_before = huge_mib(&region)?;
    let sink = Arc::new(MemfdSink::new(region.pages())?);
    let mut branch = WpBranch::arm(region.target()?, sink.clone())?;
    let first = faults(&region, |block| block..block + 1);
    let next = faults(&region, |block| block + 1..block + 1 + NEXT_PAGES);
    branch.settle()?;
    (0..TAKEN_PAGES).for_each(|block| write(&region, block * BLOCK));
    let (take, taken) = timed(|| branch.take());
    taken?;
    assert_eq!(
        branch.statistics().touched_pages,
        TAKEN_PAGES,
        "no other page has been written to"
    );
    let reference = region.bytes().to_vec();
    let (copy, copied) = timed(|| branch.copy(|| false));
    copied?;
    let (finish, finished) = timed(|| branch.finish());
    let (_, statistics) = finished?;
    assert_eq!(sink.differing_pages(&reference)?, 0, "what is measured must be right");
    Ok(Try {
        huge_mib_before,
        huge_mib_after: huge_mib(&region)?,
        populate_ms: ms(populate),
        protect_ms: ms(statistics.arm),
        scan_ms: ms(statistics.scan),
        first_write_us: first.quantiles().p50,
        next_write_us: next.quantiles().p50,
        take_us: us(take),
        copy_ms: ms(copy),
        finish_ms: ms(finish),
        write_ns_before,
        write_ns_after: random_write_ns(&region),
    })
}

fn write(region: &Region, page: u64) {
    region.word(page, page).store(page + 1, Ordering::Relaxed);
}

/// The waits of writes to some pages of each block, all of which are protected.
fn faults(region: &Region, of_block: impl Fn(u64) -> std::ops::Range<u64>) -> Waits {
    let mut waits = Waits::default();
    let pages: Vec<u64> = (0..region.pages()).step_by(BLOCK as usize).flat_map(of_block).collect();
    let mut watch = Stopwatch::start();
    for page in &pages {
        write(region, *page);
        watch.lap(&mut waits);
    }
    assert_eq!(waits.count(), pages.len() as u64, "each page was protected");
    waits
}

/// Cost of a random write while nothing is protected, which shows the cost of address translation.
fn random_write_ns(region: &Region) -> f64 {
    let mut random = Random::new(1);
    let (took, ()) = timed(|| (0..RANDOM_WRITES).for_each(|_| write(region, random.below(region.pages()))));
    took.as_nanos() as f64 / RANDOM_WRITES as f64
}

/// How much of the region is in huge pages. Its advice makes it a mapping of its own.
fn huge_mib(region: &Region) -> Result<f64> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let first = format!("{:x}-", region.source().range().start);
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&first));
    let kib = lines
        .find_map(|line| line.strip_prefix("AnonHugePages:"))
        .ok_or("the region is not mapped")?;
    let kib: u64 = kib.trim().trim_end_matches(" kB").parse()?;
    Ok((kib * 1024) as f64 / (PAGE_SIZE as u64 * PAGES_A_MIB) as f64)
}
