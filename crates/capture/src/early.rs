//! Pages of a capture under way, for callers that cannot wait for its end.

use crate::error::{CaptureError, Result};
use crate::handler::Shared;
use crate::phase::Phase;
use crate::set::{CaptureSet, Claim, Run};
use crate::source::Pages;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Pages per read. A writer of one of them waits for the whole read.
const CHUNK_PAGES: u64 = 32;
/// Interval between checks whether a page that another thread reads has reached the sink, which takes microseconds.
const LOOK_AGAIN: Duration = Duration::from_micros(50);

/// The image of the source at the instant, available from the instant on: a request copies the pages that have not been
/// copied yet. If the capture is aborted, those pages are lost.
#[derive(Clone)]
pub struct EarlyImage {
    shared: Arc<Shared>,
    set: Arc<CaptureSet>,
}

impl EarlyImage {
    pub(crate) fn new(shared: Arc<Shared>, set: Arc<CaptureSet>) -> EarlyImage {
        EarlyImage { shared, set }
    }

    /// True if the set has the page. All other pages are as in the layer below the source.
    pub fn has(&self, page: u64) -> bool {
        self.set.rank(page).is_some()
    }

    /// Waits until the sink has all of `pages` that are in the set, and copies those that no other thread has claimed.
    pub fn fetch(&self, pages: Range<u64>) -> Result<()> {
        let buffer = Pages::new(CHUNK_PAGES)?;
        for start in pages.clone().step_by(CHUNK_PAGES as usize) {
            self.copy(start..(start + CHUNK_PAGES).min(pages.end), &buffer)?;
        }
        for rank in pages.filter_map(|page| self.set.rank(page)) {
            while !self.set.is_done(rank) {
                let is_over = matches!(*self.shared.phase(), Phase::Released);
                if is_over && !self.set.is_done(rank) {
                    return Err(self.shared.failure().unwrap_or(CaptureError::Cancelled));
                }
                std::thread::sleep(LOOK_AGAIN);
            }
        }
        Ok(())
    }

    /// Fails if the capture has failed.
    pub fn check(&self) -> Result<()> {
        drop(self.shared.phase());
        self.shared.failure().map_or(Ok(()), Err)
    }

    /// Copies unclaimed pages. While they are read no fault is served and the capture cannot be aborted, so the pages
    /// stay protected.
    fn copy(&self, pages: Range<u64>, buffer: &Pages) -> Result<()> {
        let _keeping = self.shared.keeping();
        let mut runs = Vec::new();
        {
            let phase = self.shared.phase();
            if !matches!(*phase, Phase::Capturing { .. }) {
                return Ok(());
            }
            for page in pages {
                let Some(first_rank) = self.set.rank(page) else {
                    continue;
                };
                if self.set.claim(first_rank) == Claim::Yours {
                    let pages = 1;
                    runs.push(Run {
                        page,
                        pages,
                        first_rank,
                    });
                }
            }
            self.shared.read_and_release(phase, &self.set, &runs, buffer)?;
        }
        self.shared.keep(&self.set, buffer, &runs);
        Ok(())
    }
}
