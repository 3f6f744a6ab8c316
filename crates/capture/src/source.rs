//! Memory of a process, to be listed and read.

use crate::error::{Result, Step};
use crate::set::Run;
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::Mapping;
use forkd_linux_sys::pagemap::{Kind, Pagemap};
use forkd_linux_sys::process::{self, Piece};
use forkd_linux_sys::uffd::{Range, Userfaultfd};
use std::io;
use std::sync::Arc;

/// A page-aligned range of a process' memory. Pages are counted from its start.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    pub pid: i32,
    pub range: Range,
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
            source: Source {
                pid: std::process::id() as i32,
                range,
            },
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

impl Source {
    /// The addresses of `pages` pages from `page` on.
    pub fn pages(&self, page: u64, pages: u64) -> Range {
        let start = self.range.start + page * PAGE_SIZE as u64;
        Range {
            start,
            end: start + pages * PAGE_SIZE as u64,
        }
    }

    /// The page that holds an address of the range.
    pub fn page_of(&self, address: u64) -> u64 {
        (address - self.range.start) / PAGE_SIZE as u64
    }

    /// Opens the page map.
    pub fn map(&self) -> Result<Pagemap> {
        Pagemap::open(self.pid).step(|| format!("opening the page map of process {}", self.pid))
    }

    /// The ranges whose pages are of `kind`, ascending.
    pub fn scan(&self, kind: Kind) -> Result<Vec<Range>> {
        self.map()?
            .scan(self.range, kind)
            .step(|| format!("listing the pages of process {}", self.pid))
    }

    /// The error that tells that the process has ended, if it has: not all calls say so by themselves.
    pub(crate) fn gone(&self) -> Option<io::Error> {
        let first = Range {
            end: self.range.start + PAGE_SIZE as u64,
            ..self.range
        };
        let error = self.populate(first).err()?;
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
            .map(|run| {
                let len = run.pages as usize * PAGE_SIZE;
                let piece = Piece {
                    local: buffer.memory.target(offset, len),
                    remote: self.pages(run.page, run.pages).start,
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
