//! A worker's part in serving a fork: faults whose pages must be read first.

use super::fill::Advance;
use super::fork::Fork;
use crate::error::{PageError, Step};
use crate::layout::Region;
use crate::stats::count;
use crate::template::{SourceError, assemble};
use crate::workers::{BUFFER_PAGES, Fault, WorkSource};
use forkd_linux_sys::PAGE_SIZE;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long to wait before reading again from a template that did not answer: at first, and at most.
const RETRY_MIN: Duration = Duration::from_millis(2);
const RETRY_MAX: Duration = Duration::from_millis(200);
/// How long to wait before filling pages again that could not be filled because the address space was changing.
const CHANGING_MIN: Duration = Duration::from_micros(50);
const CHANGING_MAX: Duration = Duration::from_millis(16);

impl WorkSource for Fork {
    fn fetch(&self, fault: Fault, pages: u64, buffer: &mut [u8]) {
        let region = *self.layout.at(fault.address).expect("looked up before");
        let page = region.page_at(fault.address);
        let pages = pages.min(BUFFER_PAGES).max(region.unit());
        count(&self.stats.counters.fetched, 1);
        if let Err(error) = self.fetch_and_fill(&region, page, pages, buffer) {
            self.fail(error);
        }
        self.stats.waited(fault.seen.elapsed());
        self.in_hand.fetch_sub(1, Ordering::Relaxed);
    }

    fn work_ahead(&self, buffer: &mut [u8]) -> bool {
        self.advance_plan(buffer)
    }
}

impl Fork {
    fn fetch_and_fill(&self, region: &Region, page: u64, pages: u64, buffer: &mut [u8]) -> Result<(), PageError> {
        let buffer = &mut buffer[..pages as usize * PAGE_SIZE];
        let pages = match self.read_patiently(region, page, buffer) {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(()),
            Err(reason) => return self.refuse(region, page, reason),
        };
        let unit = region.unit();
        let mut done = 0;
        let mut wait = CHANGING_MIN;
        while done < pages {
            let rest = &buffer[done as usize * PAGE_SIZE..];
            let filled = self.fill(region, page + done, pages - done, Some(rest));
            match filled.step("filling pages that were read")? {
                Advance::Filled(more) => {
                    done += more;
                    self.note_asked(page + done - more, more);
                }
                // A thread waits for the first page. The other pages are there already, or can wait.
                _ if done > 0 => break,
                Advance::Changing => {
                    if self.pause(wait) {
                        return Ok(());
                    }
                    wait = (wait * 2).min(CHANGING_MAX);
                }
                Advance::Present | Advance::NoRange => {
                    self.wake(region, page).step("waking threads that wait for a page")?;
                    done += unit;
                }
                Advance::Gone => break,
                Advance::Stored(_) | Advance::Coming => unreachable!("it has been read"),
            }
        }
        Ok(())
    }

    /// Reads pages, with retries, and only the first unit if not all of them can be read. `None` when the session is over.
    fn read_patiently(&self, region: &Region, page: u64, buffer: &mut [u8]) -> Result<Option<u64>, String> {
        let until = Instant::now() + self.patience;
        let mut wait = RETRY_MIN;
        let mut pages = (buffer.len() / PAGE_SIZE) as u64;
        loop {
            match assemble(&*self.template, page, &mut buffer[..pages as usize * PAGE_SIZE]) {
                Ok(()) => return Ok(Some(pages)),
                // The page that failed may not be the one that a thread waits for.
                Err(_) if pages > region.unit() => pages = region.unit(),
                Err(SourceError::NotYet(reason)) if Instant::now() + wait > until => return Err(reason),
                Err(SourceError::NotYet(_)) => {
                    count(&self.stats.counters.retries, 1);
                    if self.pause(wait) {
                        return Ok(None);
                    }
                    wait = (wait * 2).min(RETRY_MAX);
                }
                Err(SourceError::Broken(reason)) => return Err(reason),
            }
        }
    }

    /// Poisons a page whose content is unknown, so that it is not taken for zeros.
    fn refuse(&self, region: &Region, page: u64, reason: String) -> Result<(), PageError> {
        let mut wait = CHANGING_MIN;
        loop {
            match self.poison(region, page) {
                Ok(Advance::Changing) => {
                    if self.pause(wait) {
                        return Ok(());
                    }
                    wait = (wait * 2).min(CHANGING_MAX);
                }
                Ok(Advance::Present) => return self.wake(region, page).step("waking threads that wait for a page"),
                Ok(_) => return Ok(()),
                Err(_) => return Err(PageError::NoContent { page, reason }),
            }
        }
    }

    pub fn note_asked(&self, page: u64, pages: u64) {
        self.record.lock().expect("no panic while held").note(page, pages);
    }
}
