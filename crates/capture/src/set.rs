//! The set of pages to capture, and the state of each.

use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::uffd::Range;
use std::sync::atomic::{AtomicU8, Ordering};

/// A page is read exactly once, by the thread that moves it from pending to reading. The page may be written again only
/// after it has been read, and is done when the sink has it.
const PENDING: u8 = 0;
const READING: u8 = 1;
const READ: u8 = 2;
const DONE: u8 = 3;

/// Consecutive pages of the set. Pages are counted from the start of the range; `first_rank` is the rank of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub page: u64,
    pub pages: u64,
    pub first_rank: u64,
}

impl Run {
    /// The part of the run that starts `skip` pages into it and has `pages` pages.
    pub fn part(self, skip: u64, pages: u64) -> Run {
        assert!(skip + pages <= self.pages, "a part lies inside its run");
        Run {
            page: self.page + skip,
            pages,
            first_rank: self.first_rank + skip,
        }
    }
}

/// Pages that were added to the set together.
#[derive(Debug)]
struct Group {
    /// Ascending by page and by rank.
    runs: Vec<Run>,
    first_rank: u64,
    states: Vec<AtomicU8>,
}

/// The pages that a capture copies. A page's *rank* is its place in the set: first the pages that the scan found,
/// ascending, then the pages touched afterwards, in the order of the rounds that noticed them.
#[derive(Debug)]
pub struct CaptureSet {
    groups: Vec<Group>,
}

/// The outcome of an attempt to claim a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The caller must read the page.
    Yours,
    /// Another thread is reading the page, and will release it.
    Others,
    /// The page has been read.
    Read,
}

impl CaptureSet {
    /// Creates a set from the pages in `ranges` (bytes from the first page on, ascending, not overlapping).
    pub fn new(ranges: &[Range]) -> CaptureSet {
        let mut set = CaptureSet { groups: Vec::new() };
        let page_size = PAGE_SIZE as u64;
        set.add(
            ranges
                .iter()
                .map(|range| (range.start / page_size, range.len() / page_size)),
        );
        set
    }

    /// Adds those of `pages` that are missing from the set. Work is in proportion to `pages`, not to the set.
    pub fn touch(&mut self, mut pages: Vec<u64>) {
        pages.sort_unstable();
        pages.dedup();
        pages.retain(|page| self.rank(*page).is_none());
        self.add(pages.into_iter().map(|page| (page, 1)));
    }

    fn add(&mut self, pieces: impl Iterator<Item = (u64, u64)>) {
        let first_rank = self.len();
        let mut next_rank = first_rank;
        let mut runs: Vec<Run> = Vec::new();
        for (page, pages) in pieces {
            match runs.last_mut() {
                Some(last) if last.page + last.pages == page => last.pages += pages,
                _ => runs.push(Run {
                    page,
                    pages,
                    first_rank: next_rank,
                }),
            }
            next_rank += pages;
        }
        if runs.is_empty() {
            return;
        }
        let count = (next_rank - first_rank) as usize;
        self.groups.push(Group {
            runs,
            first_rank,
            states: std::iter::repeat_with(|| AtomicU8::new(PENDING)).take(count).collect(),
        });
    }

    /// Number of pages.
    pub fn len(&self) -> u64 {
        self.groups
            .last()
            .map_or(0, |group| group.first_rank + group.states.len() as u64)
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The runs of the set in the order of their ranks.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.groups.iter().flat_map(|group| group.runs.iter().copied())
    }

    /// The rank of a page, `None` if the set lacks it.
    pub fn rank(&self, page: u64) -> Option<u64> {
        self.groups.iter().find_map(|group| group.rank(page))
    }

    /// Claims a page for reading.
    pub fn claim(&self, rank: u64) -> Claim {
        match self
            .state(rank)
            .compare_exchange(PENDING, READING, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => Claim::Yours,
            Err(READING) => Claim::Others,
            Err(_) => Claim::Read,
        }
    }

    /// Marks a page as read into a buffer: it may be written again. Panics unless the caller had claimed it.
    pub fn note_read(&self, rank: u64) {
        self.advance(rank, READING, READ);
    }

    /// Marks a page as received by the sink. Panics unless it had been read.
    pub fn complete(&self, rank: u64) {
        self.advance(rank, READ, DONE);
    }

    fn advance(&self, rank: u64, from: u8, to: u8) {
        let before = self.state(rank).swap(to, Ordering::AcqRel);
        assert_eq!(before, from, "a page is claimed, then read, then complete");
    }

    /// True once the sink has the page.
    pub fn is_done(&self, rank: u64) -> bool {
        self.state(rank).load(Ordering::Acquire) == DONE
    }

    /// True once the sink has every page.
    pub fn is_complete(&self) -> bool {
        let mut states = self.groups.iter().flat_map(|group| &group.states);
        states.all(|state| state.load(Ordering::Acquire) == DONE)
    }

    fn state(&self, rank: u64) -> &AtomicU8 {
        let after = self.groups.partition_point(|group| group.first_rank <= rank);
        let group = &self.groups[after - 1];
        &group.states[(rank - group.first_rank) as usize]
    }
}

impl Group {
    fn rank(&self, page: u64) -> Option<u64> {
        let after = self.runs.partition_point(|run| run.page <= page);
        let run = self.runs[..after].last()?;
        (page - run.page < run.pages).then(|| run.first_rank + (page - run.page))
    }
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
    fn ranks_count_the_scanned_pages_and_then_the_touched_ones_round_by_round() {
        let mut set = CaptureSet::new(&[range(2, 3), range(10, 1)]);
        set.touch(vec![20, 3, 7, 20]);
        set.touch(vec![8, 7, 9, 2]);
        set.touch(vec![8]);
        assert_eq!(set.len(), 8);
        let pages = [0, 2, 3, 4, 5, 7, 8, 9, 10, 20, 21];
        let ranks = pages.map(|page| set.rank(page));
        let wanted = [
            None,
            Some(0),
            Some(1),
            Some(2),
            None,
            Some(4),
            Some(6),
            Some(7),
            Some(3),
            Some(5),
            None,
        ];
        assert_eq!(ranks, wanted);
        let listed: Vec<u64> = set.runs().flat_map(|run| run.page..run.page + run.pages).collect();
        assert_eq!(listed, [2, 3, 4, 10, 7, 20, 8, 9]);
    }

    #[test]
    fn a_page_is_claimed_once() {
        let mut set = CaptureSet::new(&[range(0, 2)]);
        set.touch(vec![5]);
        for rank in [1, 2] {
            assert_eq!(set.claim(rank), Claim::Yours);
            assert_eq!(set.claim(rank), Claim::Others);
            set.note_read(rank);
            assert_eq!(set.claim(rank), Claim::Read);
            set.complete(rank);
            assert_eq!(set.claim(rank), Claim::Read);
        }
        assert!(!set.is_complete());
        assert_eq!(set.claim(0), Claim::Yours);
        set.note_read(0);
        assert!(!set.is_complete());
        set.complete(0);
        assert!(set.is_complete());
    }

    #[test]
    #[should_panic(expected = "claimed, then read, then complete")]
    fn a_page_that_nobody_has_read_cannot_be_completed() {
        CaptureSet::new(&[range(0, 1)]).complete(0);
    }
}
