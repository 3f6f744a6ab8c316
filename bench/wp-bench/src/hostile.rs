//! Captures without end while the kernel compacts, swaps, collapses and reclaims memory. Each capture is compared with a
//! copy made at its instant. A page that is missed or wrong here would be lost by a live branch.

use crate::region::Region;
use crate::writers::{Pace, Writers, with_writers};
use forkd_capture::{Run, Sink, Target, WpBranch};
use forkd_host_pressure::{HurriedCollapse, Repeat, Swap, SwapKind, compaction, vmstat};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::Mapping;
use serde::Serialize;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const SEED: u64 = 1;
/// Captures of one region before the next one's turn.
const TURN: u64 = 40;
const SWAP_MIB: u64 = 128;
/// Writes per second: few enough that most pages stand still between the list and the instant, so that a page that the list
/// missed is not noted by a write.
const WRITES_PER_S: f64 = 20_000.0;
const PROGRESS: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub captures: u64,
    pub region_mib: u64,
    pub writers: u64,
}

/// Figures of a run. The kernel's counters are those of the whole host.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub captures: u64,
    pub pages_audited: u64,
    /// Pages of which a capture differs from the copy made at its instant. Must be zero.
    pub differing_pages: u64,
    /// Writes that their writer did not find again. Must be zero.
    pub lost_writes: u64,
    /// Private pages of all captures together.
    pub private_pages: u64,
    pub pages_moved: u64,
    pub pages_swapped_out: u64,
    pub pages_swapped_in: u64,
    pub huge_pages_made: u64,
    pub seconds: f64,
    pub seed: u64,
    /// Pressures that are unavailable on this host, with the reason.
    pub without: Vec<String>,
}

const KINDS: [Kind; 3] = [Kind::OverFile, Kind::Small, Kind::Huge];

/// Memory as sandboxes have it.
#[derive(Debug, Clone, Copy)]
enum Kind {
    OverFile,
    Small,
    Huge,
}

pub fn run(setting: Setting) -> Result<Report> {
    let mut report = Report {
        seed: SEED,
        ..Report::default()
    };
    let start = Instant::now();
    let before = Counters::now()?;
    let _compaction = noted(&mut report, "compaction", compaction());
    let _hurried = noted(&mut report, "huge pages", HurriedCollapse::start());
    let swaps = SwapKind::ALL.map(|kind| {
        let swap = Swap::on(kind, 1).map(drop);
        noted(&mut report, &format!("swap of the kind {kind:?}"), swap).map(|()| kind)
    });
    let turns = KINDS.iter().flat_map(|kind| swaps.map(|swap| (*kind, swap))).cycle();
    let mut told = Instant::now();
    for (kind, swap) in turns {
        if report.captures >= setting.captures {
            break;
        }
        turn(setting, kind, swap, &mut report)?;
        if told.elapsed() > PROGRESS {
            told = Instant::now();
            eprintln!(
                "hostile: {} of {} captures, {} pages, {} differing",
                report.captures, setting.captures, report.pages_audited, report.differing_pages
            );
        }
    }
    Counters::now()?.since(before, &mut report);
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

/// Returns the resource, or notes that it is unavailable.
fn noted<T>(report: &mut Report, what: &str, had: io::Result<T>) -> Option<T> {
    had.map_err(|error| report.without.push(format!("{what}: {error}")))
        .ok()
}

/// Captures of one new region, with swap space of one kind.
fn turn(setting: Setting, kind: Kind, swap: Option<SwapKind>, report: &mut Report) -> Result<()> {
    let _swap = swap.map(|kind| Swap::on(kind, SWAP_MIB)).transpose()?;
    let pages = setting.region_mib * crate::run::PAGES_A_MIB;
    let region = match kind {
        Kind::OverFile => Region::new(pages)?,
        Kind::Small => Region::anonymous(pages, false)?,
        Kind::Huge => Region::anonymous(pages, true)?,
    };
    let mut region = region;
    region.spare(pages / 4);
    let _reclaim = swap.is_some().then(|| Repeat::start(region.reclaim(SEED)));
    let pace = Pace {
        writers: setting.writers,
        seed: SEED + report.captures,
        writes_per_s: Some(WRITES_PER_S),
    };
    let captures = TURN.min(setting.captures - report.captures);
    let (outcome, met) = with_writers(&region, pace, |writers| captured(&region, writers, captures, report));
    report.lost_writes += met.iter().map(|met| met.lost_writes).sum::<u64>();
    outcome
}

fn captured(region: &Region, writers: &Writers<'_>, captures: u64, report: &mut Report) -> Result<()> {
    let target = region.target()?;
    let mut reference = vec![0; region.bytes().len()];
    let image = Arc::new(Image::new(region)?);
    writers.run_on();
    for _ in 0..captures {
        region.empty_spare()?;
        image.clear();
        report.private_pages += capture(&target, writers, &image, || reference.copy_from_slice(region.bytes()))?;
        report.captures += 1;
        report.pages_audited += (reference.len() / PAGE_SIZE) as u64;
        report.differing_pages += image.differing_pages(region, &reference);
    }
    Ok(())
}

/// How many pages were private.
fn capture(target: &Target, writers: &Writers<'_>, image: &Arc<Image>, instant: impl FnOnce()) -> Result<u64> {
    let mut branch = WpBranch::arm(target.clone(), image.clone())?;
    writers.hold();
    let taken = branch.take();
    instant();
    writers.run_on();
    taken?;
    branch.copy(|| false)?;
    let (set, _) = branch.finish()?;
    Ok(set.len())
}

/// Keeps each page at its own place, for one capture after the other.
struct Image {
    memory: Mapping,
    has: Vec<AtomicBool>,
}

impl Image {
    fn new(region: &Region) -> io::Result<Image> {
        let len = region.bytes().len();
        let has = std::iter::repeat_with(AtomicBool::default).take(len / PAGE_SIZE);
        Ok(Image {
            memory: Mapping::anonymous(len)?,
            has: has.collect(),
        })
    }

    fn clear(&self) {
        self.has.iter().for_each(|has| has.store(false, Ordering::Relaxed));
    }

    fn differing_pages(&self, region: &Region, reference: &[u8]) -> u64 {
        let pages = reference.chunks_exact(PAGE_SIZE).enumerate();
        let differ = pages.filter(|(page, wanted)| match self.has[*page].load(Ordering::Acquire) {
            true => self.memory.bytes(page * PAGE_SIZE, PAGE_SIZE) != *wanted,
            false => wanted.iter().any(|byte| *byte != region.below(*page as u64)),
        });
        differ.count() as u64
    }
}

impl Sink for Image {
    fn put(&self, run: Run, bytes: &[u8]) -> io::Result<()> {
        self.memory.write(run.page as usize * PAGE_SIZE, bytes);
        let pages = run.page as usize..(run.page + run.pages) as usize;
        self.has[pages]
            .iter()
            .for_each(|has| has.store(true, Ordering::Release));
        Ok(())
    }
}

/// Counters of the kernel, for the whole host.
#[derive(Clone, Copy)]
struct Counters([u64; 4]);

impl Counters {
    fn now() -> io::Result<Counters> {
        let names = ["pgmigrate_success", "pswpout", "pswpin", "thp_collapse_alloc"];
        let mut counters = [0; 4];
        for (counter, name) in counters.iter_mut().zip(names) {
            *counter = vmstat(name)?;
        }
        Ok(Counters(counters))
    }

    fn since(self, before: Counters, report: &mut Report) {
        let of = |index: usize| self.0[index] - before.0[index];
        report.pages_moved = of(0);
        report.pages_swapped_out = of(1);
        report.pages_swapped_in = of(2);
        report.huge_pages_made = of(3);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else a run could never fail.
    #[test]
    fn a_page_that_a_capture_has_not_or_has_otherwise_differs() {
        let region = Region::new(4).expect("a region");
        let mut reference = region.bytes().to_vec();
        reference[PAGE_SIZE] ^= 1;
        let image = Image::new(&region).expect("an image");
        assert_eq!(image.differing_pages(&region, &reference), 1, "a page that is missing");
        let run = Run {
            page: 1,
            pages: 1,
            first_rank: 0,
        };
        image.put(run, &reference[PAGE_SIZE..2 * PAGE_SIZE]).expect("put");
        assert_eq!(image.differing_pages(&region, &reference), 0);
        image.put(run, &[9; PAGE_SIZE]).expect("put");
        assert_eq!(image.differing_pages(&region, &reference), 1, "a page that is wrong");
        image.clear();
        assert_eq!(
            image.differing_pages(&region, &reference),
            1,
            "a page of an earlier capture"
        );
    }

    #[test]
    fn a_short_run_under_all_pressure_loses_nothing() {
        let setting = Setting {
            captures: 6,
            region_mib: 4,
            writers: 2,
        };
        let report = run(setting).expect("this test needs root");
        assert_eq!(report.captures, 6);
        assert_eq!(report.pages_audited, 6 * 1024);
        assert_eq!((report.differing_pages, report.lost_writes), (0, 0), "{report:?}");
    }
}
