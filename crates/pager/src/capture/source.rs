//! Memory of another process, to be listed and read.

use super::set::{CaptureSet, Run};
use crate::error::{Result, Step};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::Mapping;
use forkd_linux_sys::pagemap::{Kind, Pagemap};
use forkd_linux_sys::process::{self, Piece};
use forkd_linux_sys::uffd::Range;
use std::sync::Arc;

/// A range of another process' memory.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    pub pid: i32,
    pub range: Range,
}

/// Where the captured pages go.
#[derive(Debug, Clone)]
pub struct Sink {
    /// As large as the range.
    pub memory: Arc<Mapping>,
    /// Whether page *n* of the range goes to page *n* here; else the page of rank *n* does.
    pub in_place: bool,
}

impl Sink {
    /// The page of the sink for the page `page` of rank `rank`.
    pub fn slot(&self, page: u64, rank: u64) -> u64 {
        if self.in_place { page } else { rank }
    }

    /// The bytes of a page that has been copied.
    pub fn page(&self, page: u64, rank: u64) -> &[u8] {
        self.memory.bytes(self.slot(page, rank) as usize * PAGE_SIZE, PAGE_SIZE)
    }
}

impl Source {
    pub fn pages(&self, page: u64, pages: u64) -> Range {
        let start = self.range.start + page * PAGE_SIZE as u64;
        Range {
            start,
            end: start + pages * PAGE_SIZE as u64,
        }
    }

    pub fn page_of(&self, address: u64) -> u64 {
        (address - self.range.start) / PAGE_SIZE as u64
    }

    /// Opens the page map.
    pub fn map(&self) -> Result<Pagemap> {
        Pagemap::open(self.pid).step(|| format!("opening the page map of process {}", self.pid))
    }

    pub fn scan(&self, kind: Kind) -> Result<Vec<Range>> {
        self.map()?
            .scan(self.range, kind)
            .step(|| format!("listing the pages of process {}", self.pid))
    }

    /// Reads `runs`, which must be claimed, into the sink.
    pub fn read(&self, sink: &Sink, runs: &[Run]) -> std::io::Result<()> {
        let pieces: Vec<Piece> = runs
            .iter()
            .map(|run| {
                let len = run.pages as usize * PAGE_SIZE;
                let local = sink
                    .memory
                    .target(sink.slot(run.page, run.first_rank) as usize * PAGE_SIZE, len);
                Piece {
                    local,
                    remote: self.pages(run.page, run.pages).start,
                    len,
                }
            })
            .collect();
        // SAFETY: `target` has checked that each piece fits, and a claimed page's slot is written by its claimer alone.
        unsafe { process::read_memory(self.pid, &pieces) }
    }

    /// Reads a whole set that nobody else copies.
    pub fn copy(&self, set: &CaptureSet, sink: &Sink) -> Result<()> {
        let runs: Vec<Run> = set.runs().collect();
        self.read(sink, &runs)
            .step(|| format!("reading the memory of process {}", self.pid))
    }
}
