//! Fills pages, for faults and for work ahead.

use super::fork::Fork;
use crate::layout::{HUGE_PAGE_BYTES, Region};
use crate::stats::count;
use crate::template::{Content, Run, first_of_a_kind};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::uffd::{Filled, Range, Stop};
use std::io;
use std::sync::atomic::AtomicU64;

/// Pages of 4 KiB filled per call. Events are not read meanwhile, and a thread that frees memory waits for its event to be read.
pub(crate) const CALL_PAGES: u64 = 64;

static ZEROS: [u8; HUGE_PAGE_BYTES as usize] = [0; HUGE_PAGE_BYTES as usize];

/// The result of a fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Advance {
    /// The number of pages that are there now. Threads that waited for them have been woken.
    Filled(u64),
    /// The first page was there already. Threads that wait for it have not been woken.
    Present,
    /// The number of pages that must be read first.
    Stored(u64),
    /// The first page is on its way to the template.
    Coming,
    /// The address space is changing: events must be read.
    Changing,
    /// Nothing is mapped there any more.
    NoRange,
    /// The process has ended.
    Gone,
}

impl Fork {
    /// Fills pages from `page` on, at most `limit`, as far as they are of one kind and one call goes. `given` is what the
    /// template has there, of `limit` pages, if that has been read.
    ///
    /// A freed page is zeros, whatever the template has. Whether it was freed is looked up, and the page filled, while no event
    /// is read: memory freed later is removed after this fill, so the free wins.
    pub fn fill(&self, region: &Region, page: u64, limit: u64, given: Option<&[u8]>) -> io::Result<Advance> {
        let limit = limit.min(region.pages().end - page).min(CALL_PAGES.max(region.unit()));
        let watch = self.changes.read().expect("no panic while held");
        let protects = watch.protects;
        let (removed, same) = self.removed.run(page, limit);
        // Huge pages are freed as a whole.
        let pages = if region.is_huge() { region.unit() } else { same };
        let target = region.memory_of(page..page + pages);
        if removed {
            return self.zero(region, target, protects);
        }
        if self.is_shared(region) {
            let mapped = self.uffd.map_present(target)?;
            if mapped.stop != Some(Stop::NoPage) {
                return Ok(self.advance(mapped, &self.stats.counters.shared));
            }
        }
        let given = given.map(|bytes| &bytes[..pages as usize * PAGE_SIZE]);
        let run = match given {
            Some(bytes) => first_of_a_kind(bytes),
            None => self.template.run(page, pages),
        };
        if run.pages < region.unit() {
            // A huge page of several kinds.
            return match given {
                Some(bytes) => self.copy(target.start, bytes, protects),
                None if self.is_coming(page, pages) => Ok(Advance::Coming),
                None => Ok(Advance::Stored(pages)),
            };
        }
        self.fill_run(region, page, run, protects)
    }

    fn fill_run(&self, region: &Region, page: u64, run: Run<'_>, protects: bool) -> io::Result<Advance> {
        let target = region.memory_of(page..page + run.pages);
        match run.content {
            Content::Zeros => self.zero(region, target, protects),
            Content::Resident(bytes) => self.copy(target.start, bytes, protects),
            Content::Stored => Ok(Advance::Stored(run.pages)),
            Content::Coming => Ok(Advance::Coming),
        }
    }

    /// True if one of `pages` pages from `page` on is on its way to the template.
    fn is_coming(&self, mut page: u64, pages: u64) -> bool {
        let end = page + pages;
        while page < end {
            let run = self.template.run(page, end - page);
            if run.content == Content::Coming {
                return true;
            }
            page += run.pages;
        }
        false
    }

    fn copy(&self, target: u64, bytes: &[u8], protects: bool) -> io::Result<Advance> {
        let filled = self.put(target, bytes, protects)?;
        count(&self.stats.counters.bytes, filled.bytes);
        Ok(self.advance(filled, &self.stats.counters.copied))
    }

    fn put(&self, target: u64, bytes: &[u8], protects: bool) -> io::Result<Filled> {
        if protects {
            return self.uffd.copy_protected(target, bytes);
        }
        self.uffd.copy(target, bytes)
    }

    fn zero(&self, region: &Region, target: Range, protects: bool) -> io::Result<Advance> {
        let zeroed = &self.stats.counters.zeroed;
        // The kernel's own page of zeros cannot be protected in the same call.
        if !region.is_huge() && !protects {
            match self.uffd.zero(target) {
                // This kind of memory has no page of zeros.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                filled => return Ok(self.advance(filled?, zeroed)),
            }
        }
        let filled = self.put(target.start, &ZEROS[..target.len() as usize], protects)?;
        Ok(self.advance(filled, zeroed))
    }

    fn advance(&self, filled: Filled, counter: &AtomicU64) -> Advance {
        let pages = filled.bytes / PAGE_SIZE as u64;
        count(counter, pages);
        match filled.stop {
            None | Some(Stop::Cut) => Advance::Filled(pages),
            Some(Stop::Present) => Advance::Present,
            Some(Stop::Changing) => Advance::Changing,
            Some(Stop::NoRange | Stop::NoPage) => Advance::NoRange,
            Some(Stop::Gone) => Advance::Gone,
        }
    }

    /// Makes every touch of the unit of `page` a `SIGBUS` from now on. Fails where the kernel cannot do that.
    pub fn poison(&self, region: &Region, page: u64) -> io::Result<Advance> {
        let _unchanged = self.changes.read().expect("no panic while held");
        let target = region.memory_of(page..page + region.unit());
        let filled = self.uffd.poison(target)?;
        Ok(self.advance(filled, &self.stats.counters.poisoned))
    }

    /// Wakes the threads that wait for the unit of `page`, which look again.
    pub fn wake(&self, region: &Region, page: u64) -> io::Result<()> {
        self.uffd.wake(region.memory_of(page..page + region.unit()))
    }
}
