//! Memory as a sandbox has it, and where its captured pages go.

use forkd_capture::{Run, Sink, Source, Target};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::{self, Mapping};
use forkd_linux_sys::uffd::Range;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU64;

const WORDS_A_PAGE: u64 = (PAGE_SIZE / 8) as u64;

/// A private mapping of a sealed memfd all pages of which have content.
pub struct Region {
    memory: Mapping,
}

impl Region {
    pub fn new(pages: u64) -> io::Result<Region> {
        let len = pages as usize * PAGE_SIZE;
        let file = memfd::create(c"forkd-region", len as u64)?;
        let writable = Mapping::read_write(&file, len)?;
        for page in 0..pages as usize {
            writable.write(page * PAGE_SIZE, &[page as u8 | 1; PAGE_SIZE]);
        }
        drop(writable);
        memfd::seal(&file)?;
        let memory = Mapping::private(&file, len)?;
        Ok(Region { memory })
    }

    /// Anonymous memory, none of it populated, with huge pages where the host gives them, or without.
    pub fn anonymous(pages: u64, huge_pages: bool) -> io::Result<Region> {
        let memory = Mapping::anonymous(pages as usize * PAGE_SIZE)?;
        memory.advise_huge_pages(huge_pages)?;
        Ok(Region { memory })
    }

    pub fn pages(&self) -> u64 {
        (self.memory.len() / PAGE_SIZE) as u64
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
