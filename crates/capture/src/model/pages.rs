//! Pages of the model, and the crate's set of them in a form that can be stored, compared and restored.

use crate::set::{CaptureSet, Claim};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::uffd::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub type Page = u8;

pub const PAGES_MAX: usize = 3;

/// A set of pages, one bit each.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct PageSet(u8);

impl PageSet {
    pub fn from_bits(bits: u8) -> PageSet {
        PageSet(bits)
    }

    pub fn has(self, page: Page) -> bool {
        self.0 & (1 << page) != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn add(&mut self, page: Page) {
        self.0 |= 1 << page;
    }

    pub fn remove(&mut self, page: Page) {
        self.0 &= !(1 << page);
    }

    pub fn without(self, other: PageSet) -> PageSet {
        PageSet(self.0 & !other.0)
    }

    pub fn iter(self) -> impl DoubleEndedIterator<Item = Page> + Clone {
        (0..8).filter(move |page| self.has(*page))
    }

    /// The list that the crate expects.
    pub fn list(self) -> Vec<u64> {
        self.iter().map(u64::from).collect()
    }
}

impl FromIterator<Page> for PageSet {
    fn from_iter<T: IntoIterator<Item = Page>>(pages: T) -> PageSet {
        let mut set = PageSet::default();
        pages.into_iter().for_each(|page| set.add(page));
        set
    }
}

impl std::fmt::Debug for PageSet {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_set().entries(self.iter()).finish()
    }
}

/// A [`CaptureSet`] as the list of calls that made it. Each question repeats them on a new set, so that every answer is
/// the crate's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct SetLog {
    /// Pages that the scan found.
    scanned: PageSet,
    /// Pages that each round added.
    rounds: Vec<PageSet>,
    /// Progress of each page: claimed, noted as read, complete.
    calls: [u8; PAGES_MAX],
}

impl SetLog {
    pub fn scan(&mut self, page: Page) {
        self.scanned.add(page);
    }

    pub fn touch(&mut self, touched: PageSet) {
        let before = self.ranked().len();
        self.rounds.push(touched);
        // Keep only the pages that the crate has added: two sets must not differ by pages that were left out.
        let added: PageSet = self.ranked().into_iter().skip(before).collect();
        self.rounds.pop();
        if !added.is_empty() {
            self.rounds.push(added);
        }
    }

    /// The set after all calls so far.
    pub fn replay(&self) -> CaptureSet {
        let ranges: Vec<Range> = runs_of(self.scanned)
            .map(|(first, pages)| bytes(first, pages))
            .collect();
        let mut set = CaptureSet::new(&ranges);
        for round in &self.rounds {
            set.touch(round.list());
        }
        for (page, calls) in self.calls.iter().enumerate().filter(|(_, calls)| **calls > 0) {
            let rank = set.rank(page as u64).expect("a page that was claimed is in the set");
            assert_eq!(set.claim(rank), Claim::Yours, "nobody else has claimed it");
            (1..*calls).for_each(|call| {
                if call == 1 {
                    set.note_read(rank)
                } else {
                    set.complete(rank)
                }
            });
        }
        set
    }

    /// Records that the caller has claimed the page.
    pub fn note_claim(&mut self, page: Page) {
        self.calls[usize::from(page)] = 1;
    }

    pub fn claim(&mut self, page: Page) -> Claim {
        let set = self.replay();
        let claim = set.claim(rank(&set, page));
        if claim == Claim::Yours {
            self.note_claim(page);
        }
        claim
    }

    pub fn note_read(&mut self, page: Page) -> Result<(), String> {
        self.advance(page, 2, CaptureSet::note_read)
    }

    pub fn complete(&mut self, page: Page) -> Result<(), String> {
        self.advance(page, 3, CaptureSet::complete)
    }

    fn advance(&mut self, page: Page, calls: u8, call: impl FnOnce(&CaptureSet, u64)) -> Result<(), String> {
        let set = self.replay();
        // The crate asserts that a page moves forward one step at a time.
        catch_unwind(AssertUnwindSafe(|| call(&set, rank(&set, page))))
            .map_err(|_| format!("an assertion of the crate fires for page {page}"))?;
        self.calls[usize::from(page)] = calls;
        Ok(())
    }

    /// The pages in the order of their ranks.
    pub fn ranked(&self) -> Vec<Page> {
        let set = self.replay();
        set.runs()
            .flat_map(|run| run.page..run.page + run.pages)
            .map(|page| page as Page)
            .collect()
    }

    pub fn pages(&self) -> PageSet {
        self.ranked().into_iter().collect()
    }

    /// Groups of `pages` that are consecutive in the set, in the order of their ranks.
    pub fn runs(&self, pages: PageSet) -> Vec<PageSet> {
        let set = self.replay();
        let runs = set
            .runs()
            .map(|run| (run.page..run.page + run.pages).map(|page| page as Page));
        runs.flat_map(|run| {
            let mine: PageSet = run.filter(|page| pages.has(*page)).collect();
            runs_of(mine)
                .map(|(first, pages)| (first..first + pages).collect())
                .collect::<Vec<PageSet>>()
        })
        .collect()
    }
}

fn rank(set: &CaptureSet, page: Page) -> u64 {
    set.rank(page.into()).expect("a page of the set")
}

/// Consecutive pages, as `(first page, pages)`.
fn runs_of(pages: PageSet) -> impl Iterator<Item = (Page, Page)> {
    let starts = pages.iter().filter(move |page| *page == 0 || !pages.has(page - 1));
    starts.map(move |first| (first, (first..).take_while(|page| pages.has(*page)).count() as Page))
}

fn bytes(first: Page, pages: Page) -> Range {
    let page_size = PAGE_SIZE as u64;
    Range {
        start: u64::from(first) * page_size,
        end: u64::from(first + pages) * page_size,
    }
}
