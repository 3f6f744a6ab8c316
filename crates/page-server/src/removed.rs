//! The pages that a guest has freed.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

const BITS: u64 = u64::BITS as u64;

/// A bit a page: 32 KiB for a GiB of memory, however the guest cuts it up. A page that is in stays in.
#[derive(Debug)]
pub struct Removed {
    words: Vec<AtomicU64>,
    pages: u64,
}

impl Removed {
    /// A set over `pages` pages, empty.
    pub fn none_of(pages: u64) -> Removed {
        let words = (0..pages.div_ceil(BITS)).map(|_| AtomicU64::new(0)).collect();
        Removed { words, pages }
    }

    /// Adds `pages`. Those beyond the last one are left out.
    pub fn insert(&self, pages: Range<u64>) {
        let (mut page, end) = (pages.start, pages.end.min(self.pages));
        while page < end {
            let (word, bit) = (page / BITS, page % BITS);
            let count = (BITS - bit).min(end - page);
            let mask = if count == BITS {
                u64::MAX
            } else {
                ((1 << count) - 1) << bit
            };
            self.words[word as usize].fetch_or(mask, Ordering::Relaxed);
            page += count;
        }
    }

    /// True if `page` is in the set, and the number of pages from `page` on, at most `limit`, that are alike.
    pub fn run(&self, page: u64, limit: u64) -> (bool, u64) {
        let end = page.saturating_add(limit).min(self.pages);
        // Seen such that a bit is set where the state differs from that of `page`.
        let word = |index: u64| self.words[index as usize].load(Ordering::Relaxed);
        let is_in = word(page / BITS) >> (page % BITS) & 1 == 1;
        let differs = |index: u64| if is_in { !word(index) } else { word(index) };
        let mut at = page;
        while at < end {
            let rest = differs(at / BITS) >> (at % BITS);
            if rest != 0 {
                at += u64::from(rest.trailing_zeros());
                break;
            }
            at = (at / BITS + 1) * BITS;
        }
        (is_in, at.min(end) - page)
    }
}
