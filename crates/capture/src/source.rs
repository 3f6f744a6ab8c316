//! Memory of a process, to be listed and read.

use crate::error::{Result, Step};
use crate::set::Run;
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::Mapping;
use forkd_linux_sys::pagemap::{Kind, Pagemap};
use forkd_linux_sys::process::{self, Piece};
use forkd_linux_sys::uffd::{Range, Userfaultfd};
use std::fmt::Debug;
use std::io;
use std::sync::Arc;

/// Consecutive pages of a source at consecutive addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    pub memory: Range,
    /// Its first page, counted over all of the source.
    pub page: u64,
}

/// Tells which pages of a source count, where its page map cannot: a page of memory that is mapped shared looks the same
/// whether or not it was written.
pub trait Listing: Debug + Send + Sync {
    /// Those pages, as bytes from the source's first page on, in any order. It is asked once the source is protected: what
    /// is written later is noted without it.
    fn pages(&self) -> io::Result<Vec<Range>>;
}

/// Page-aligned memory of a process. Pages are counted from its start, through all of its regions.
#[derive(Debug, Clone)]
pub struct Source {
    pub pid: i32,
    /// Ascending by page, from 0 on, without gaps.
    regions: Arc<[Region]>,
    listing: Option<Arc<dyn Listing>>,
}

/// Memory of a process, and a userfaultfd of its address space.
#[derive(Debug, Clone)]
pub struct Target {
    pub source: Source,
    pub uffd: Arc<Userfaultfd>,
}

impl Target {
    /// A range of the calling process' own memory, with a new userfaultfd. Fails where there is none to be had.
    pub fn own(range: Range) -> Result<Target> {
        let uffd = Userfaultfd::create().step(|| "creating a userfaultfd".into())?;
        Ok(Target {
            source: Source::new(std::process::id() as i32, range),
            uffd: Arc::new(uffd),
        })
    }
}

/// A buffer for pages on their way to the sink.
#[derive(Debug)]
pub(crate) struct Pages {
    memory: Mapping,
}

impl Pages {
    pub fn new(pages: u64) -> Result<Pages> {
        let memory = Mapping::anonymous(pages as usize * PAGE_SIZE).step(|| "making room for a buffer".into())?;
        Ok(Pages { memory })
    }

    /// The bytes of `pages` pages from the `first`-th on.
    pub fn bytes(&self, first: u64, pages: u64) -> &[u8] {
        self.memory
            .bytes(first as usize * PAGE_SIZE, pages as usize * PAGE_SIZE)
    }
}

impl Region {
    pub fn pages(&self) -> u64 {
        self.memory.len() / PAGE_SIZE as u64
    }
}

impl Source {
    /// One region, whose private pages are what counts.
    pub fn new(pid: i32, range: Range) -> Source {
        Source::of_regions(pid, vec![Region { memory: range, page: 0 }], None)
    }

    /// Several regions. Their private pages count, or those that `listing` names. Panics when they leave out a page or have
    /// one twice.
    pub fn of_regions(pid: i32, mut regions: Vec<Region>, listing: Option<Arc<dyn Listing>>) -> Source {
        regions.sort_unstable_by_key(|region| region.page);
        let mut next = 0;
        for region in &regions {
            assert_eq!(region.page, next, "the regions of a source have each page once");
            next += region.pages();
        }
        assert!(next > 0, "a source has pages");
        Source {
            pid,
            regions: regions.into(),
            listing,
        }
    }

    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Where it is. Panics when it has more than one region.
    pub fn range(&self) -> Range {
        let [region] = &*self.regions else {
            panic!("a source of {} regions", self.regions.len());
        };
        region.memory
    }

    /// How large it is.
    pub fn bytes(&self) -> u64 {
        self.regions.iter().map(|region| region.memory.len()).sum()
    }

    /// All of its addresses, in pieces of at most `bytes`.
    pub fn steps(&self, bytes: u64) -> impl Iterator<Item = Range> + '_ {
        self.regions.iter().flat_map(move |region| region.memory.steps(bytes))
    }

    /// The addresses of `pages` pages from `page` on: a piece for each region that they are in.
    pub fn pages(&self, page: u64, pages: u64) -> impl Iterator<Item = Range> + '_ {
        let end = page + pages;
        let touching = self
            .regions
            .iter()
            .filter(move |region| region.page < end && page < region.page + region.pages());
        touching.map(move |region| {
            let address = |page: u64| region.memory.start + (page - region.page) * PAGE_SIZE as u64;
            Range {
                start: address(page.max(region.page)),
                end: address(end.min(region.page + region.pages())),
            }
        })
    }

    /// The page that holds an address.
    pub fn page_of(&self, address: u64) -> io::Result<u64> {
        let mut regions = self.regions.iter();
        let region = regions.find(|region| (region.memory.start..region.memory.end).contains(&address));
        let outside = || io::Error::other(format!("a fault at {address:#x}, which is in none of its regions"));
        let region = region.ok_or_else(outside)?;
        Ok(region.page + (address - region.memory.start) / PAGE_SIZE as u64)
    }

    /// The pages of `kind`, as bytes from the first page on, ascending.
    pub fn scan(&self, kind: Kind) -> Result<Vec<Range>> {
        self.scan_with(|map, range| map.scan(range, kind))
    }

    /// The pages that count while nothing is protected, in the same way.
    pub fn own_pages(&self) -> Result<Vec<Range>> {
        match &self.listing {
            Some(listing) => self.ask(&**listing),
            None => self.scan(Kind::Private),
        }
    }

    /// The pages that count once all is protected, in the same way.
    pub(crate) fn own_pages_protected(&self, host_swaps: bool) -> Result<Vec<Range>> {
        if let Some(listing) = &self.listing {
            return self.ask(&**listing);
        }
        let mut found = self.scan(Kind::PrivatePresent)?;
        // Looked at after the scan: what it missed because it was swapped out is found now.
        if host_swaps {
            // An entry of a protected page that was never populated looks swapped out. Only its swap type tells.
            found.extend(self.scan_with(Pagemap::swapped_out)?);
        }
        Ok(joined(found))
    }

    fn ask(&self, listing: &dyn Listing) -> Result<Vec<Range>> {
        listing.pages().map(joined).step(|| self.listing_step())
    }

    fn scan_with(&self, scan: impl Fn(&Pagemap, Range) -> io::Result<Vec<Range>>) -> Result<Vec<Range>> {
        let map = Pagemap::open(self.pid).step(|| format!("opening the page map of process {}", self.pid))?;
        let mut found = Vec::new();
        for region in &*self.regions {
            let listed = scan(&map, region.memory).step(|| self.listing_step())?;
            let offset = |address: u64| address - region.memory.start + region.page * PAGE_SIZE as u64;
            found.extend(listed.into_iter().map(|range| Range {
                start: offset(range.start),
                end: offset(range.end),
            }));
        }
        Ok(found)
    }

    fn listing_step(&self) -> String {
        format!("listing the pages of process {}", self.pid)
    }

    /// The error that tells that the process has ended, if it has: not all calls say so by themselves.
    pub(crate) fn gone(&self) -> Option<io::Error> {
        let error = self.pages(0, 1).find_map(|first| self.populate(first).err())?;
        (error.raw_os_error() == Some(libc::ESRCH)).then_some(error)
    }

    /// Reads a byte of each page of `range`: one that was never populated has the page of zeros then.
    pub(crate) fn populate(&self, range: Range) -> io::Result<()> {
        let mut byte = 0u8;
        let pages = (range.start..range.end).step_by(PAGE_SIZE);
        let pieces: Vec<Piece> = pages
            .map(|remote| Piece {
                local: &raw mut byte,
                remote,
                len: 1,
            })
            .collect();
        // SAFETY: every piece is the one byte, which nobody else uses.
        unsafe { process::read_memory(self.pid, &pieces) }
    }

    /// Reads `runs`, which must be claimed, one behind the other into `buffer` from its page `first` on.
    pub(crate) fn read(&self, runs: &[Run], buffer: &Pages, first: u64) -> io::Result<()> {
        let mut offset = first as usize * PAGE_SIZE;
        let pieces: Vec<Piece> = runs
            .iter()
            .flat_map(|run| self.pages(run.page, run.pages))
            .map(|range| {
                let len = range.len() as usize;
                let piece = Piece {
                    local: buffer.memory.target(offset, len),
                    remote: range.start,
                    len,
                };
                offset += len;
                piece
            })
            .collect();
        // SAFETY: `target` has checked that each piece fits, and a buffer belongs to one thread.
        unsafe { process::read_memory(self.pid, &pieces) }
    }
}

/// Sorted, with what overlaps or touches made one.
fn joined(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut out: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}
