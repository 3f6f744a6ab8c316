//! The pages that a fork is given before it asks for them.

use crate::layout::Layout;
use crate::record::{AskedRun, Record};
use crate::workers::BUFFER_PAGES;
use std::collections::VecDeque;

/// Pages to fill, in order.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    recorded: VecDeque<AskedRun>,
    rest: VecDeque<AskedRun>,
    /// True if the fork has all of its memory once the plan is done: the plan covers everything, and no page failed.
    pub is_whole: bool,
}

impl Plan {
    pub fn new(layout: &Layout, record: Option<Record>, whole: bool, shared: bool) -> Plan {
        let recorded = record.map_or_else(Vec::new, |record| record.runs().to_vec());
        let regions = layout.regions().iter().filter(|_| whole);
        let rest = regions.flat_map(|region| {
            let pages = region.pages();
            let starts = pages.clone().step_by(BUFFER_PAGES as usize);
            starts.map(move |page| AskedRun {
                page,
                pages: BUFFER_PAGES.min(pages.end - page) as u32,
            })
        });
        Plan {
            recorded: recorded.into(),
            rest: rest.collect(),
            // A freed page of a shared mapping would show the template again.
            is_whole: whole && !shared,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.recorded.is_empty() && self.rest.is_empty()
    }

    /// The next pages to fill, and whether they come from the record.
    pub fn front(&mut self) -> Option<(&mut AskedRun, bool)> {
        match self.recorded.front_mut() {
            Some(asked) => Some((asked, true)),
            None => self.rest.front_mut().map(|asked| (asked, false)),
        }
    }

    /// Takes this many of the next pages off the plan.
    pub fn advance(&mut self, pages: u64) {
        let Some((asked, recorded)) = self.front() else { return };
        let pages = pages.min(asked.pages.into());
        asked.page += pages;
        asked.pages -= pages as u32;
        if asked.pages == 0 {
            if recorded { &mut self.recorded } else { &mut self.rest }.pop_front();
        }
    }
}
