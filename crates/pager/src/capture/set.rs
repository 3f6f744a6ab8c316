//! The set of pages to capture, and how far each one is.

use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::uffd::Range;
use std::sync::atomic::{AtomicU8, Ordering};

/// A page is read exactly once, by whoever moves it from pending to copying; only after it is done may it be written again.
const PENDING: u8 = 0;
const COPYING: u8 = 1;
const DONE: u8 = 2;

/// Consecutive pages of the set, `first_rank` counting those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub page: u64,
    pub pages: u64,
    pub first_rank: u64,
}

/// The pages that a capture copies. A page's *rank* is its place in the set.
#[derive(Debug)]
pub struct CaptureSet {
    /// Ascending by page.
    scanned: Vec<Run>,
    /// Single pages that came in between the scan and the instant, ascending; their ranks follow those of `scanned`.
    touched: Vec<u64>,
    states: Vec<AtomicU8>,
    touched_states: Vec<AtomicU8>,
}

/// What became of an attempt to take a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is the caller's to copy.
    Yours,
    /// Someone else is copying it, and will release it.
    Others,
    /// It has been copied.
    Done,
}

impl CaptureSet {
    /// A set of the pages in `ranges` (addresses from `base`, ascending). `touch` completes it.
    pub fn new(base: u64, ranges: &[Range]) -> CaptureSet {
        let mut rank = 0;
        let scanned: Vec<Run> = ranges
            .iter()
            .map(|range| {
                let pages = range.len() / PAGE_SIZE as u64;
                let run = Run {
                    page: (range.start - base) / PAGE_SIZE as u64,
                    pages,
                    first_rank: rank,
                };
                rank += pages;
                run
            })
            .collect();
        CaptureSet {
            scanned,
            touched: Vec::new(),
            states: states(rank as usize),
            touched_states: Vec::new(),
        }
    }

    /// Adds pages that the scan did not have. Work is in proportion to `pages`, not to the set.
    pub fn touch(&mut self, mut pages: Vec<u64>) {
        pages.sort_unstable();
        pages.dedup();
        pages.retain(|page| self.scanned_rank(*page).is_none());
        self.touched_states = states(pages.len());
        self.touched = pages;
    }

    pub fn len(&self) -> u64 {
        (self.states.len() + self.touched_states.len()) as u64
    }

    /// The runs of the set in the order of their ranks.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        let scanned = self.states.len() as u64;
        let single = move |(index, page): (usize, &u64)| Run {
            page: *page,
            pages: 1,
            first_rank: scanned + index as u64,
        };
        self.scanned
            .iter()
            .copied()
            .chain(self.touched.iter().enumerate().map(single))
    }

    pub fn rank(&self, page: u64) -> Option<u64> {
        let touched = || {
            self.touched
                .binary_search(&page)
                .ok()
                .map(|index| (self.states.len() + index) as u64)
        };
        self.scanned_rank(page).or_else(touched)
    }

    fn scanned_rank(&self, page: u64) -> Option<u64> {
        let after = self.scanned.partition_point(|run| run.page <= page);
        let run = self.scanned[..after].last()?;
        (page - run.page < run.pages).then(|| run.first_rank + (page - run.page))
    }

    pub fn claim(&self, rank: u64) -> Claim {
        match self
            .state(rank)
            .compare_exchange(PENDING, COPYING, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => Claim::Yours,
            Err(COPYING) => Claim::Others,
            Err(_) => Claim::Done,
        }
    }

    /// The page's bytes are where they belong. Panics unless the caller had claimed it.
    pub fn complete(&self, rank: u64) {
        let before = self.state(rank).swap(DONE, Ordering::AcqRel);
        assert_eq!(before, COPYING, "only a claimed page can be completed");
    }

    pub fn is_complete(&self) -> bool {
        self.states
            .iter()
            .chain(&self.touched_states)
            .all(|state| state.load(Ordering::Acquire) == DONE)
    }

    fn state(&self, rank: u64) -> &AtomicU8 {
        let rank = rank as usize;
        self.states
            .get(rank)
            .unwrap_or_else(|| &self.touched_states[rank - self.states.len()])
    }
}

fn states(count: usize) -> Vec<AtomicU8> {
    std::iter::repeat_with(|| AtomicU8::new(PENDING)).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(page: u64, pages: u64) -> Range {
        Range {
            start: page * 4096,
            end: (page + pages) * 4096,
        }
    }

    #[test]
    fn ranks_count_the_scanned_pages_and_then_the_touched_ones() {
        let mut set = CaptureSet::new(0, &[range(2, 3), range(10, 1)]);
        set.touch(vec![20, 3, 7, 20]);
        assert_eq!(set.len(), 6);
        let ranks: Vec<_> = [0, 2, 3, 4, 5, 7, 10, 20, 21].map(|page| set.rank(page)).into();
        assert_eq!(
            ranks,
            [None, Some(0), Some(1), Some(2), None, Some(4), Some(3), Some(5), None]
        );
        let listed: Vec<u64> = set.runs().flat_map(|run| run.page..run.page + run.pages).collect();
        assert_eq!(listed, [2, 3, 4, 10, 7, 20]);
    }

    #[test]
    fn a_page_is_claimed_once() {
        let set = CaptureSet::new(0, &[range(0, 2)]);
        assert_eq!(set.claim(1), Claim::Yours);
        assert_eq!(set.claim(1), Claim::Others);
        set.complete(1);
        assert_eq!(set.claim(1), Claim::Done);
        assert!(!set.is_complete());
    }

    #[test]
    #[should_panic(expected = "only a claimed page")]
    fn a_page_that_nobody_claimed_cannot_be_completed() {
        CaptureSet::new(0, &[range(0, 1)]).complete(0);
    }
}
