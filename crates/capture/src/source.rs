//! Process memory that can be listed and read.

use crate::error::{Result, Step};
use crate::set::Run;
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::Mapping;
use forkd_linux_sys::pagemap::{Kind, Pagemap, Usage};
use forkd_linux_sys::process::{Memory, Piece};
use forkd_linux_sys::uffd::{Range, Userfaultfd};
use std::fmt::Debug;
use std::io;
use std::sync::{Arc, OnceLock};

/// Attempts to read a page that is present but cannot be read.
const LOOKS_MAX: u32 = 3;

/// Consecutive pages of a source at consecutive addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    pub memory: Range,
    /// The first page, counted over all of the source.
    pub page: u64,
}

/// Lists the pages of a source that count, where the page map cannot: a page of a shared mapping looks the same whether
/// or not it was written.
pub trait Listing: Debug + Send + Sync {
    /// The pages that count, as bytes from the source's first page on, in any order. Called after the source is
    /// protected: later writes are noted separately.
    fn pages(&self) -> io::Result<Vec<Range>>;
}

/// Page-aligned memory of a process. Pages are counted from its start, through all of its regions.
#[derive(Debug, Clone)]
pub struct Source {
    pub pid: i32,
    /// Ascending by page, from 0 on, without gaps.
    regions: Arc<[Region]>,
    listing: Option<Arc<dyn Listing>>,
    /// Opened on first use, or by [`Source::open`].
    memory: Arc<OnceLock<Memory>>,
    /// True if this process serves the pages: a page that a userfaultfd withholds was then freed.
    is_served: bool,
}

/// Memory of a process, and a userfaultfd of its address space.
#[derive(Debug, Clone)]
pub struct Target {
    pub source: Source,
    pub uffd: Arc<Userfaultfd>,
}

impl Target {
    /// A range of the calling process's own memory, with a new userfaultfd. Fails if the kernel refuses a userfaultfd.
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

    /// The bytes of `pages` pages, starting at page `first` of the buffer.
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
    /// A source of one region, of which the private pages count.
    pub fn new(pid: i32, range: Range) -> Source {
        Source::of_regions(pid, vec![Region { memory: range, page: 0 }], None)
    }

    /// A source of several regions. Their private pages count, or those that `listing` names. Panics if the regions
    /// leave out a page or contain one twice.
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
            memory: Arc::default(),
            is_served: false,
        }
    }

    /// The same source, with pages served by the program that captures it. A page of the set that is absent was freed
    /// before the instant and reads as zeros. A page freed after the instant has been reported, and the capture fails.
    pub(crate) fn served(self) -> Source {
        Source {
            is_served: true,
            ..self
        }
    }

    /// Binds the source to the process that has this pid now, so that a later process with the same pid is never read.
    pub fn open(&self) -> io::Result<()> {
        self.memory().map(drop)
    }

    fn memory(&self) -> io::Result<&Memory> {
        if self.memory.get().is_none() {
            let opened = Memory::open(self.pid).map_err(|error| match error.kind() {
                // No process has this pid.
                io::ErrorKind::NotFound => io::Error::from_raw_os_error(libc::ESRCH),
                _ => error,
            });
            // Another thread may have set it first: use that value.
            let _ = self.memory.set(opened?);
        }
        Ok(self.memory.get().expect("just set"))
    }

    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The address range of the only region. Panics if there are several.
    pub fn range(&self) -> Range {
        let [region] = &*self.regions else {
            panic!("a source of {} regions", self.regions.len());
        };
        region.memory
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.regions.iter().map(|region| region.memory.len()).sum()
    }

    /// All of its addresses, in pieces of at most `bytes`.
    pub fn steps(&self, bytes: u64) -> impl Iterator<Item = Range> + '_ {
        self.regions.iter().flat_map(move |region| region.memory.steps(bytes))
    }

    /// The addresses of `pages` pages from `page` on: one piece per region.
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

    /// The pages that count while nothing is protected, as bytes from the first page on, ascending.
    pub fn own_pages(&self) -> Result<Vec<Range>> {
        match &self.listing {
            Some(listing) => self.ask(&**listing),
            None => self.scan_with(|map, range| map.scan(range, Kind::Private)),
        }
    }

    /// The pages that count once all is protected, in the same form. One look decides about each page, so the kernel
    /// may move or swap it meanwhile.
    pub fn own_pages_protected(&self) -> Result<Vec<Range>> {
        match &self.listing {
            Some(listing) => self.ask(&**listing),
            None => self.scan_with(Pagemap::private_under_protection),
        }
    }

    /// Memory that the process uses in the source, protected or not.
    pub fn usage(&self) -> Result<Usage> {
        let map = self.page_map()?;
        let mut all = Usage::default();
        for region in &*self.regions {
            let usage = map.usage(region.memory).step(|| self.listing_step())?;
            all.private_bytes += usage.private_bytes;
            all.file_bytes += usage.file_bytes;
        }
        Ok(all)
    }

    fn page_map(&self) -> Result<Pagemap> {
        Pagemap::open(self.pid).step(|| format!("opening the page map of process {}", self.pid))
    }

    fn ask(&self, listing: &dyn Listing) -> Result<Vec<Range>> {
        listing.pages().map(joined).step(|| self.listing_step())
    }

    fn scan_with(&self, scan: impl Fn(&Pagemap, Range) -> io::Result<Vec<Range>>) -> Result<Vec<Range>> {
        let map = self.page_map()?;
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

    /// The error to report if the process has ended: not all calls report that by themselves.
    pub(crate) fn gone(&self) -> Option<io::Error> {
        let error = self.pages(0, 1).find_map(|first| self.populate(first).err())?;
        (error.raw_os_error() == Some(libc::ESRCH)).then_some(error)
    }

    /// Reads one byte of each page of `range`. A page that was never populated then has the zero page.
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
        // SAFETY: every piece is this one byte, which no other thread uses.
        unsafe { self.read_pieces(&pieces) }
    }

    /// Reads claimed `runs`, one behind the other, into `buffer` from its page `first` on.
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
        unsafe { self.read_pieces(&pieces) }
    }

    /// Reads the whole source, page after page, into a new mapping.
    pub fn copy(&self) -> io::Result<Mapping> {
        let copy = Mapping::anonymous(self.bytes() as usize)?;
        let mut pieces = Vec::new();
        for region in &*self.regions {
            let len = region.memory.len() as usize;
            pieces.push(Piece {
                local: copy.target(region.page as usize * PAGE_SIZE, len),
                remote: region.memory.start,
                len,
            });
        }
        // SAFETY: the pieces are disjoint parts of memory that was just mapped and that no other code knows.
        unsafe { self.read_pieces(&pieces) }?;
        Ok(copy)
    }

    /// # Safety
    /// As [`Memory::read`].
    unsafe fn read_pieces(&self, pieces: &[Piece]) -> io::Result<()> {
        let memory = self.memory()?;
        for piece in pieces {
            // SAFETY: passed on from the caller.
            match unsafe { memory.read(&[*piece]) } {
                // SAFETY: passed on from the caller.
                Err(error) if self.is_served && is_withheld(&error) => unsafe { self.read_served(memory, piece) }?,
                Err(error) if is_withheld(&error) => return Err(withheld(piece.remote)),
                read => read?,
            }
        }
        Ok(())
    }

    /// Reads page by page. A withheld page that is absent reads as zeros. A page that is present, but that hardware or
    /// swap space has lost, is an error.
    ///
    /// # Safety
    /// As [`Memory::read`].
    unsafe fn read_served(&self, memory: &Memory, piece: &Piece) -> io::Result<()> {
        let map = Pagemap::open(self.pid)?;
        for done in (0..piece.len).step_by(PAGE_SIZE) {
            let page = Piece {
                local: piece.local.wrapping_add(done),
                remote: piece.remote + done as u64,
                len: PAGE_SIZE.min(piece.len - done),
            };
            let mut looks = 0;
            loop {
                looks += 1;
                // SAFETY: a part of the caller's piece.
                match unsafe { memory.read(&[page]) } {
                    Err(error) if !is_withheld(&error) => return Err(error),
                    Ok(()) => break,
                    Err(_) if map.has_no_page(page.remote)? => {
                        // SAFETY: the piece has room for its length.
                        unsafe { page.local.write_bytes(0, page.len) };
                        break;
                    }
                    // The page may have been filled since the read.
                    Err(_) if looks < LOOKS_MAX => {}
                    Err(_) => return Err(withheld(page.remote)),
                }
            }
        }
        Ok(())
    }
}

fn is_withheld(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EIO)
}

fn withheld(address: u64) -> io::Error {
    io::Error::other(format!(
        "the process withholds memory at {address:#x}, or has unmapped it"
    ))
}

/// Sorts ranges and merges those that overlap or touch.
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
