//! Pages of a capture that is still under way, for those who cannot wait for its end.

use crate::error::{CaptureError, Result};
use crate::handler::Shared;
use crate::phase::Phase;
use crate::set::{CaptureSet, Claim, Run};
use crate::source::Pages;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Pages read at a time; whoever wants to write to one of them waits for that.
const CHUNK_PAGES: u64 = 32;
/// Until it is looked again whether a page that somebody else reads has reached the sink, which takes microseconds.
const LOOK_AGAIN: Duration = Duration::from_micros(50);

/// The image of the source at the instant. It is there from the instant on: what has not been copied is copied when it is asked for.
/// When the capture is given up, so is what had not been copied of it.
#[derive(Clone)]
pub struct EarlyImage {
    shared: Arc<Shared>,
    set: Arc<CaptureSet>,
}

impl EarlyImage {
    pub(crate) fn new(shared: Arc<Shared>, set: Arc<CaptureSet>) -> EarlyImage {
        EarlyImage { shared, set }
    }

    /// Whether a page is of the set: the others are what was below the source.
    pub fn has(&self, page: u64) -> bool {
        self.set.rank(page).is_some()
    }

    /// Waits until the sink has all of `pages` that are of the set, and copies those that nobody has copied.
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

    /// Fails when the capture has failed.
    pub fn check(&self) -> Result<()> {
        drop(self.shared.phase());
        self.shared.failure().map_or(Ok(()), Err)
    }

    /// Copies what nobody has claimed. It is read while no fault is served and the capture cannot be given up: the pages are
    /// protected all that time.
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
