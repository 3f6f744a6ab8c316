//! What is filled before anybody asks for it: what a record says, then, if wished, everything.

use super::fill::Advance;
use super::fork::Fork;
use crate::layout::{Layout, Region};
use crate::record::{Asked, Record};
use crate::stats::count;
use crate::template::{Content, assemble};
use crate::workers::BUFFER_PAGES;
use forkd_linux_sys::PAGE_SIZE;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Pages that are filled before another fork has its turn.
const TURN_PAGES: u64 = 1024;
/// Until work ahead goes on that was in the way of others.
const MAKE_WAY: Duration = Duration::from_micros(100);
/// Until it is looked again whether a page has come to the template.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Pages to fill, in order.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    recorded: VecDeque<Asked>,
    rest: VecDeque<Asked>,
    /// All of memory is there at the end, and nothing that cannot be had was left out.
    pub is_whole: bool,
}

impl Plan {
    pub fn new(layout: &Layout, record: Option<Record>, whole: bool, shared: bool) -> Plan {
        let recorded = record.map_or_else(Vec::new, |record| record.runs().to_vec());
        let regions = layout.regions().iter().filter(|_| whole);
        let rest = regions.flat_map(|region| {
            let pages = region.pages();
            let starts = pages.clone().step_by(BUFFER_PAGES as usize);
            starts.map(move |page| Asked {
                page,
                pages: BUFFER_PAGES.min(pages.end - page) as u32,
            })
        });
        Plan {
            recorded: recorded.into(),
            rest: rest.collect(),
            // A page of a mapping that is given back would be the template's again.
            is_whole: whole && !shared,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.recorded.is_empty() && self.rest.is_empty()
    }

    /// What comes next, and whether it is of the record.
    fn front(&mut self) -> Option<(&mut Asked, bool)> {
        match self.recorded.front_mut() {
            Some(asked) => Some((asked, true)),
            None => self.rest.front_mut().map(|asked| (asked, false)),
        }
    }

    /// So many pages of what comes next are done with.
    fn advance(&mut self, pages: u64) {
        let Some((asked, recorded)) = self.front() else { return };
        let pages = pages.min(asked.pages.into());
        asked.page += pages;
        asked.pages -= pages as u32;
        if asked.pages == 0 {
            if recorded { &mut self.recorded } else { &mut self.rest }.pop_front();
        }
    }
}

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
                self.complete.ring();
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
                    // Who asks for it is told; without it, memory is not whole.
                    plan.is_whole = false;
                    plan.advance(pages);
                }
                Step::Later(wait) => return !self.pause(wait),
                Step::Over => return false,
            }
        }
        true
    }

    fn fill_ahead(&self, region: &Region, asked: Asked, recorded: bool, buffer: &mut [u8]) -> Step {
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

    /// Pages that the kernel itself makes zeros, once nobody else serves them.
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
