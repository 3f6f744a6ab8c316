//! Pages that are swapped out while they are captured.

use super::area::Area;
use super::instant::skip;
use super::sinks::Image;
use super::storm::await_that;
use crate::WpBranch;
use forkd_host_pressure::{Swap, SwapKind};
use forkd_linux_sys::PAGE_SIZE;

const PAGES: u64 = 2048;

/// Runs `body` with each kind of swap space that this host has.
pub fn with_swap(mib: u64, mut body: impl FnMut(SwapKind)) {
    let mut had = 0;
    for kind in SwapKind::ALL {
        match Swap::on(kind, mib) {
            Ok(_swap) => {
                had += 1;
                body(kind);
            }
            Err(error) => skip(&format!("no swap space of the kind {kind:?} can be had here: {error}")),
        }
    }
    assert!(had > 0, "this test needs the right to turn swap on");
}

fn page_out(area: &Area) {
    await_that("pages are swapped out", || {
        area.advise(libc::MADV_PAGEOUT);
        area.away_pages() > PAGES / 8
    });
}

#[test]
fn pages_that_are_swapped_out_are_captured_like_any_other() {
    with_swap(32, |kind| {
        for area in [Area::layered(PAGES), Area::anonymous(PAGES)] {
            area.advise(libc::MADV_NOHUGEPAGE);
            let own: Vec<u64> = (0..PAGES).filter(|page| page % 3 == 1 || page % 64 < 8).collect();
            own.iter().for_each(|page| area.write(*page, 0, &page.to_le_bytes()));
            let truth = area.bytes().to_vec();
            page_out(&area);
            let sink = Image::new(&area);
            let mut branch = WpBranch::arm(area.target.clone(), sink.clone()).expect("arm");
            page_out(&area);
            branch.take().expect("take");
            branch.copy(|| false).expect("copy");
            let (set, _) = branch.finish().expect("finish");
            // Reading the truth has filled the pages between with the zero page, which counts in memory over nothing.
            let missed = own.iter().find(|page| set.rank(**page).is_none());
            assert_eq!(missed, None, "{kind:?}: a page that was written is not in the set");
            sink.assert_is(&area, &truth, "after it was swapped out");
        }
    });
}

/// A marked page and a swapped-out page differ in only one field of the entry.
#[test]
fn marks_are_told_from_pages_that_are_swapped_out() {
    with_swap(32, |kind| {
        for area in [Area::layered(PAGES), Area::anonymous(PAGES)] {
            area.advise(libc::MADV_NOHUGEPAGE);
            let own: Vec<u64> = (0..PAGES).filter(|page| page % 3 == 1).collect();
            own.iter().for_each(|page| area.write(*page, 0, &[7]));
            let branch = WpBranch::arm(area.target.clone(), Image::new(&area)).expect("arm");
            page_out(&area);
            let found = area.source().own_pages_protected().expect("list");
            let found: Vec<u64> = found
                .iter()
                .flat_map(|range| range.start / PAGE_SIZE as u64..range.end / PAGE_SIZE as u64)
                .collect();
            assert!(found == own, "{kind:?}: {} of {} pages", found.len(), own.len());
            let usage = area.source().usage().expect("usage");
            assert_eq!(usage.private_bytes, own.len() as u64 * PAGE_SIZE as u64);
            assert_eq!(area.protected_pages(), PAGES, "{kind:?}: swapped pages stay protected");
            // Pages that return to memory are still protected.
            own.iter().for_each(|page| assert_eq!(area.read(*page), 7));
            assert_eq!(
                area.protected_pages(),
                PAGES,
                "{kind:?}: so do those that have come back"
            );
            drop(branch);
        }
    });
}
