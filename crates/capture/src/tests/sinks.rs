//! The sinks of these tests.

use super::area::Area;
use crate::{Run, Sink};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::Mapping;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Stores every page at its place, and counts how often each was put.
pub struct Image {
    memory: Mapping,
    puts: Vec<AtomicU64>,
}

impl Image {
    pub fn new(area: &Area) -> Arc<Image> {
        Arc::new(Image {
            memory: Mapping::anonymous(area.pages as usize * PAGE_SIZE).expect("map"),
            puts: std::iter::repeat_with(AtomicU64::default)
                .take(area.pages as usize)
                .collect(),
        })
    }

    pub fn has(&self, page: u64) -> bool {
        self.puts[page as usize].load(Ordering::Acquire) > 0
    }

    /// The bytes of a page at the instant: the bytes that were put, or those of the layer below.
    pub fn page<'a>(&'a self, area: &'a Area, page: u64) -> &'a [u8] {
        match self.puts[page as usize].load(Ordering::Acquire) {
            0 => area.below(page),
            1 => self.memory.bytes(page as usize * PAGE_SIZE, PAGE_SIZE),
            puts => panic!("page {page} was put {puts} times"),
        }
    }

    /// Fails, naming the first page that differs from `truth`, the content of the area at the instant.
    pub fn assert_is(&self, area: &Area, truth: &[u8], what: &str) {
        let wanted = |page: u64| &truth[page as usize * PAGE_SIZE..][..PAGE_SIZE];
        let wrong = (0..area.pages).find(|page| self.page(area, *page) != wanted(*page));
        assert_eq!(wrong, None, "that page differs: {what}");
    }
}

impl Sink for Image {
    fn put(&self, run: Run, bytes: &[u8]) -> io::Result<()> {
        assert_eq!(bytes.len() as u64, run.pages * PAGE_SIZE as u64);
        self.memory.write(run.page as usize * PAGE_SIZE, bytes);
        (run.page..run.page + run.pages).for_each(|page| {
            self.puts[page as usize].fetch_add(1, Ordering::AcqRel);
        });
        Ok(())
    }
}

/// True if the fault handler, and not the bulk copy, gives the sink a page.
pub fn given_by_handler() -> bool {
    std::thread::current().name() == Some("faults")
}
