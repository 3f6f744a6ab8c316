//! Memory as a sandbox has it, and where its captured pages go.

use crate::random::Random;
use forkd_capture::{Run, Sink, Source, Target};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::{self, Mapping};
use forkd_linux_sys::uffd::Range;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const WORDS_A_PAGE: u64 = (PAGE_SIZE / 8) as u64;

/// A private mapping of a sealed memfd all pages of which have content, or anonymous memory.
pub struct Region {
    memory: Arc<Mapping>,
    is_over_file: bool,
    /// Pages at the end that nobody writes to.
    spare_pages: u64,
}

/// Pages that go to swap in one call, and those that are read after it.
const OUT_PAGES: u64 = 512;
const BACK_PAGES: usize = 128;
/// Pause between two such calls, so that the writers make progress too.
const REST: Duration = Duration::from_millis(20);

impl Region {
    pub fn new(pages: u64) -> io::Result<Region> {
        let len = pages as usize * PAGE_SIZE;
        let file = memfd::create(c"forkd-region", len as u64)?;
        let writable = Mapping::read_write(&file, len)?;
        for page in 0..pages as usize {
            writable.write(page * PAGE_SIZE, &[content(page as u64); PAGE_SIZE]);
        }
        drop(writable);
        memfd::seal(&file)?;
        let memory = Mapping::private(&file, len)?;
        Ok(Region {
            memory: Arc::new(memory),
            is_over_file: true,
            spare_pages: 0,
        })
    }

    /// Anonymous memory, none of it populated, with huge pages where the host gives them, or without.
    pub fn anonymous(pages: u64, huge_pages: bool) -> io::Result<Region> {
        let memory = Mapping::anonymous(pages as usize * PAGE_SIZE)?;
        memory.advise_huge_pages(huge_pages)?;
        Ok(Region {
            memory: Arc::new(memory),
            is_over_file: false,
            spare_pages: 0,
        })
    }

    /// Keeps so many pages at the end from the writers.
    pub fn spare(&mut self, pages: u64) {
        self.spare_pages = pages;
    }

    /// Gives what nobody writes to back to the kernel.
    pub fn empty_spare(&self) -> io::Result<()> {
        let spare = self.spare_pages as usize * PAGE_SIZE;
        self.memory.give_back(self.memory.len() - spare, spare)
    }

    /// Pages that are written to.
    pub fn pages(&self) -> u64 {
        (self.memory.len() / PAGE_SIZE) as u64 - self.spare_pages
    }

    /// Each byte of a page that was never written to.
    pub fn below(&self, page: u64) -> u8 {
        if self.is_over_file { content(page) } else { 0 }
    }

    /// An action that sends some pages to swap space and has others come back.
    pub fn reclaim(&self, seed: u64) -> impl FnMut() -> io::Result<()> + Send + 'static {
        let memory = self.memory.clone();
        let pages = (memory.len() / PAGE_SIZE) as u64;
        let mut random = Random::new(seed);
        move || {
            let out = OUT_PAGES.min(pages);
            let first = random.below(pages - out + 1);
            memory.page_out(first as usize * PAGE_SIZE, out as usize * PAGE_SIZE)?;
            for _ in 0..BACK_PAGES {
                let page = random.below(pages);
                std::hint::black_box(memory.word(page as usize * PAGE_SIZE).load(Ordering::Relaxed));
            }
            std::thread::sleep(REST);
            Ok(())
        }
    }

    /// Where it is in this process.
    pub fn source(&self) -> Source {
        let start = self.memory.target(0, 0) as u64;
        let end = start + self.memory.len() as u64;
        Source::new(std::process::id() as i32, Range { start, end })
    }

    pub fn target(&self) -> forkd_capture::Result<Target> {
        Target::own(self.source().range())
    }

    /// A word of a page, chosen by any number.
    pub fn word(&self, page: u64, chosen_by: u64) -> &AtomicU64 {
        self.memory
            .word(page as usize * PAGE_SIZE + (chosen_by % WORDS_A_PAGE) as usize * 8)
    }

    /// All of it. Nobody may write meanwhile.
    pub fn bytes(&self) -> &[u8] {
        self.memory.bytes(0, self.memory.len())
    }
}

fn content(page: u64) -> u8 {
    page as u8 | 1
}

/// Keeps each page at its own place in a new memfd.
pub struct MemfdSink {
    file: File,
}

impl MemfdSink {
    pub fn new(pages: u64) -> io::Result<MemfdSink> {
        Ok(MemfdSink {
            file: memfd::create(c"forkd-captured", pages * PAGE_SIZE as u64)?,
        })
    }

    /// How many pages are not the same as in `reference`.
    pub fn differing_pages(&self, reference: &[u8]) -> io::Result<u64> {
        let captured = Mapping::read_only(&self.file, reference.len())?;
        let pages = captured.bytes(0, reference.len()).chunks_exact(PAGE_SIZE);
        let differ = pages
            .zip(reference.chunks_exact(PAGE_SIZE))
            .filter(|(one, other)| one != other);
        Ok(differ.count() as u64)
    }
}

impl Sink for MemfdSink {
    fn put(&self, run: Run, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, run.page * PAGE_SIZE as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else a run could never fail.
    #[test]
    fn a_page_that_is_missing_or_wrong_in_one_byte_differs() {
        let reference: Vec<u8> = (0..3 * PAGE_SIZE).map(|at| (at % 251) as u8).collect();
        let sink = MemfdSink::new(3).expect("memfd");
        let put = |page: u64, bytes: &[u8]| {
            let run = Run {
                page,
                pages: 1,
                first_rank: page,
            };
            sink.put(run, bytes).expect("put");
        };
        let page = |page: usize| &reference[page * PAGE_SIZE..][..PAGE_SIZE];
        put(0, page(0));
        put(1, page(1));
        assert_eq!(sink.differing_pages(&reference).expect("compare"), 1);
        put(2, page(2));
        assert_eq!(sink.differing_pages(&reference).expect("compare"), 0);
        let mut wrong = page(1).to_vec();
        wrong[PAGE_SIZE - 1] ^= 1;
        put(1, &wrong);
        assert_eq!(sink.differing_pages(&reference).expect("compare"), 1);
    }
}
