//! Fills pages before the fork asks for them: what a record says, then, if the session populates, everything.

use super::fill::Advance;
use super::fork::Fork;
use crate::layout::Region;
use crate::record::AskedRun;
use crate::stats::count;
use crate::template::{Content, assemble};
use crate::workers::BUFFER_PAGES;
use forkd_linux_sys::PAGE_SIZE;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Pages that are filled before the next fork has its turn.
const TURN_PAGES: u64 = 1024;
/// How long work ahead pauses to let faults go first.
const MAKE_WAY: Duration = Duration::from_micros(100);
/// How long to wait before asking again whether a page has come to the template.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

impl Fork {
    /// Does a turn's work. Returns whether there is more.
    pub fn advance_plan(&self, buffer: &mut [u8]) -> bool {
        let mut plan = self.plan.lock().expect("no panic while held");
        let mut room = TURN_PAGES;
        while room > 0 {
            if self.in_hand.load(Ordering::Relaxed) > 0 {
                return !self.pause(MAKE_WAY);
            }
            if self.pause(Duration::ZERO) {
                return false;
            }
            let Some((&mut asked, recorded)) = plan.front() else {
                self.complete.signal();
                return false;
            };
            let Some(region) = self.layout.having(asked.page).copied() else {
                plan.advance(1);
                continue;
            };
            match self.fill_ahead(&region, asked, recorded, buffer) {
                Step::Done(pages) => {
                    plan.advance(pages);
                    room = room.saturating_sub(pages);
                }
                Step::Failed(pages) => {
                    // A fault for this page reports the failure. Without the page, memory is not whole.
                    plan.is_whole = false;
                    plan.advance(pages);
                }
                Step::Later(wait) => return !self.pause(wait),
                Step::Over => return false,
            }
        }
        true
    }

    fn fill_ahead(&self, region: &Region, asked: AskedRun, recorded: bool, buffer: &mut [u8]) -> Step {
        // A record may have been made with pages of another size.
        let page = asked.page - (asked.page - region.page) % region.unit();
        let limit = u64::from(asked.pages).next_multiple_of(region.unit()).min(BUFFER_PAGES);
        let limit = limit.min(region.pages().end - page);
        if !recorded && let Some(pages) = self.needs_nothing(region, page, limit) {
            return Step::Done(pages);
        }
        let counters = &self.stats.counters;
        let counter = if recorded {
            &counters.prefetched
        } else {
            &counters.populated
        };
        let run = self.template.run(page, limit);
        if run.content == Content::Stored && run.pages >= region.unit() && !self.is_shared(region) {
            return self.read_ahead(region, page, run.pages, buffer, counter);
        }
        match self.fill(region, page, limit, None) {
            Ok(Advance::Stored(pages)) => self.read_ahead(region, page, pages, buffer, counter),
            Ok(advance) => step_of(advance, region, counter),
            Err(_) => Step::Failed(region.unit()),
        }
    }

    /// The number of pages from `page` on that need no fill: the kernel itself makes them zeros once nothing serves the memory.
    fn needs_nothing(&self, region: &Region, page: u64, limit: u64) -> Option<u64> {
        if self.is_shared(region) {
            return None;
        }
        let (removed, pages) = self.removed.run(page, limit);
        let run = self.template.run(page, pages);
        let pages = if removed { pages } else { run.pages };
        let nothing = removed || run.content == Content::Zeros;
        (nothing && pages.is_multiple_of(region.unit())).then_some(pages)
    }

    fn read_ahead(&self, region: &Region, page: u64, pages: u64, buffer: &mut [u8], counter: &AtomicU64) -> Step {
        let pages = pages - pages % region.unit();
        let buffer = &mut buffer[..pages as usize * PAGE_SIZE];
        if assemble(&*self.template, page, buffer).is_err() {
            return Step::Failed(pages);
        }
        let mut done = 0;
        while done < pages {
            let rest = &buffer[done as usize * PAGE_SIZE..];
            let step = match self.fill(region, page + done, pages - done, Some(rest)) {
                Ok(advance) => step_of(advance, region, counter),
                Err(_) => Step::Failed(region.unit()),
            };
            match step {
                Step::Done(more) => done += more,
                _ if done > 0 => break,
                other => return other,
            }
        }
        Step::Done(done)
    }
}

fn step_of(advance: Advance, region: &Region, counter: &AtomicU64) -> Step {
    match advance {
        Advance::Filled(pages) => {
            count(counter, pages);
            Step::Done(pages)
        }
        Advance::Present | Advance::NoRange => Step::Done(region.unit()),
        Advance::Changing => Step::Later(MAKE_WAY),
        Advance::Coming => Step::Later(LOOK_AGAIN),
        Advance::Gone => Step::Over,
        Advance::Stored(pages) => Step::Failed(pages),
    }
}

enum Step {
    Done(u64),
    Failed(u64),
    Later(Duration),
    Over,
}
