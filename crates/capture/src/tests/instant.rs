//! The guarantee itself, on every kind of memory that a sandbox has.

use super::area::{Area, HUGE};
use super::sinks::Image;
use super::storm::storm;
use crate::WpBranch;
use forkd_linux_sys::PAGE_SIZE;
use std::io::Write;

const PAGES: u64 = 2048;

/// The cases that a capture met.
#[derive(Debug, Default)]
pub struct Met {
    faults: u64,
    touched: u64,
    /// Pages that were not private yet.
    pristine: u64,
}

/// Captures an area that is being written to, and compares the sink with a copy made at the instant.
pub fn capture(area: &Area, seed: u64, met: &mut Met) {
    storm(area, seed, |storm| {
        let sink = Image::new(area);
        let mut branch = WpBranch::arm(area.target.clone(), sink.clone()).expect("arm");
        storm.wait_for_writes(50);
        let truth = storm.stop(|| {
            branch.take().expect("take");
            area.bytes().to_vec()
        });
        storm.wait_for_writes(if seed.is_multiple_of(2) { 0 } else { 200 });
        branch.copy(|| false).expect("copy");
        let (set, statistics) = branch.finish().expect("finish");
        assert_eq!(statistics.pages_by_copy + statistics.pages_by_fault, set.len());
        assert_eq!(area.protected_pages(), 0, "seed {seed}");
        storm.wait_for_writes(1000);
        sink.assert_is(area, &truth, &format!("seed {seed}"));
        met.faults += statistics.pages_by_fault;
        met.touched += statistics.touched_pages + u64::from(statistics.rounds);
        met.pristine += area.pages - set.len();
    });
}

impl Met {
    /// Fails if nothing could have gone wrong.
    pub fn check(&self) {
        assert!(self.faults > 0 && self.touched > 0, "{self:?}");
    }
}

/// Captures an area of which a third is private, a third has been read and a third was never populated. Pages of each
/// third are written to before the instant and after it.
pub fn capture_thirds(area: &Area) {
    for page in 0..area.pages {
        match page % 3 {
            0 => area.write(page, 0, &page.to_le_bytes()),
            1 => assert_eq!(area.read(page), area.below(page)[0]),
            _ => {}
        }
    }
    let sink = Image::new(area);
    let mut branch = WpBranch::arm(area.target.clone(), sink.clone()).expect("arm");
    assert_eq!(area.protected_pages(), area.pages);
    let write = |from: u64| {
        (from..area.pages)
            .step_by(16)
            .for_each(|page| area.write(page, 8, &[0xEE; 8]))
    };
    (0..3).for_each(write);
    branch.take().expect("take");
    let truth = area.bytes().to_vec();
    (1..8).for_each(write);
    branch.copy(|| false).expect("copy");
    branch.finish().expect("finish");
    assert_eq!(area.protected_pages(), 0);
    sink.assert_is(area, &truth, "it was written to while nobody else was");
}

#[test]
fn the_sink_holds_every_private_page_as_it_was_at_the_instant() {
    let mut met = Met::default();
    for seed in 0..24u64 {
        let area = Area::layered(PAGES);
        area.warm(&mut seed.clone());
        capture(&area, seed, &mut met);
    }
    met.check();
    assert!(met.pristine > 0, "some pages were never private");
}

#[test]
fn pages_written_read_and_never_populated_are_captured_in_memory_over_a_file_and_over_nothing() {
    capture_thirds(&Area::layered(PAGES));
    capture_thirds(&Area::anonymous(PAGES));
}

#[test]
fn one_source_can_be_captured_again_and_again() {
    let area = Area::layered(PAGES);
    area.warm(&mut 3);
    for round in 0..10u8 {
        let sink = Image::new(&area);
        let mut branch = WpBranch::arm(area.target.clone(), sink.clone()).expect("arm");
        area.write(round.into(), 0, &[round + 1]);
        branch.take().expect("take");
        branch.copy(|| false).expect("copy");
        let (set, _) = branch.finish().expect("finish");
        assert!(set.rank(round.into()).is_some(), "the page was written");
        assert_eq!(sink.page(&area, round.into())[0], round + 1);
        // Marks of an earlier round must not make pages look private.
        assert!(set.len() < PAGES, "round {round} has {} pages", set.len());
    }
}

/// Needs huge pages: the first capture finds them whole, the later ones in pieces.
#[test]
fn huge_pages_written_read_and_never_populated_are_captured_like_any_other() {
    const HUGE_PAGES: u64 = (HUGE / PAGE_SIZE) as u64;
    let mut met = Met::default();
    for seed in 0..4 {
        let area = Area::anonymous(8 * HUGE_PAGES);
        area.advise(libc::MADV_HUGEPAGE);
        for huge in 0..6 {
            let page = huge * HUGE_PAGES + seed;
            match huge % 3 {
                // A huge page that is only read is the kernel's one huge zero page.
                0 => assert_eq!(area.read(page), 0),
                _ => area.write(page, 8, &page.to_le_bytes()),
            }
        }
        let huge = area.huge_bytes();
        if huge == 0 {
            let enabled = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
            skip(&format!("this host gives out no huge pages: {}", enabled.trim()));
            return;
        }
        assert!(huge < 8 * HUGE as u64, "some are not populated");
        (0..3).for_each(|round| capture(&area, seed * 3 + round, &mut met));
    }
    met.check();
}

#[test]
fn so_is_memory_that_may_have_no_huge_pages_and_memory_over_a_file_whatever_it_may_have() {
    let areas = [
        (Area::anonymous(PAGES), libc::MADV_NOHUGEPAGE),
        (Area::layered(PAGES), libc::MADV_NOHUGEPAGE),
        (Area::layered(PAGES), libc::MADV_HUGEPAGE),
    ];
    for (kind, (area, advice)) in areas.into_iter().enumerate() {
        area.advise(advice);
        area.warm(&mut (kind as u64));
        let mut met = Met::default();
        (0..6).for_each(|round| capture(&area, kind as u64 * 6 + round, &mut met));
        met.check();
    }
}

/// Prints why a test proves nothing here. The test runner would hide `eprintln`.
pub fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}
