//! A template in which some pages are one fork's own.

use super::{Run, SourceError, Template, assemble};
use crate::Content;
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::maps::Mapped;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A template with a few pages that were changed for one fork. Its identity is the template's, and so are its records.
pub struct RefreshedTemplate {
    inner: Arc<dyn Template>,
    /// The changed pages, by number.
    pages: BTreeMap<u64, Vec<u8>>,
}

impl RefreshedTemplate {
    pub fn new(inner: Arc<dyn Template>) -> RefreshedTemplate {
        let pages = BTreeMap::new();
        RefreshedTemplate { inner, pages }
    }

    /// Lets `change` write to `len` bytes of the fork's memory from byte `at` on, which are inside the template.
    pub fn change(&mut self, at: u64, len: usize, change: impl FnOnce(&mut [u8])) -> Result<(), SourceError> {
        let size = PAGE_SIZE as u64;
        let (first, last) = (at / size, (at + len as u64 - 1) / size);
        let mut bytes = Vec::new();
        for page in first..=last {
            bytes.extend_from_slice(self.page(page)?);
        }
        let start = (at - first * size) as usize;
        change(&mut bytes[start..start + len]);
        for (page, content) in (first..=last).zip(bytes.chunks_exact(PAGE_SIZE)) {
            self.pages.insert(page, content.to_vec());
        }
        Ok(())
    }

    /// The fork's own page, copied from the template when it is first asked for.
    fn page(&mut self, page: u64) -> Result<&[u8], SourceError> {
        if !self.pages.contains_key(&page) {
            let mut bytes = vec![0; PAGE_SIZE];
            assemble(&*self.inner, page, &mut bytes)?;
            self.pages.insert(page, bytes);
        }
        Ok(&self.pages[&page])
    }
}

impl Template for RefreshedTemplate {
    fn identity(&self) -> String {
        self.inner.identity()
    }

    fn pages(&self) -> u64 {
        self.inner.pages()
    }

    fn arrived(&self) -> u64 {
        self.inner.arrived()
    }

    fn broken(&self) -> Option<String> {
        self.inner.broken()
    }

    fn run(&self, page: u64, limit: u64) -> Run<'_> {
        match self.pages.range(page..).next() {
            Some((own, bytes)) if *own == page => Run {
                pages: 1,
                content: Content::Resident(bytes),
            },
            Some((own, _)) => self.inner.run(page, limit.min(own - page)),
            None => self.inner.run(page, limit),
        }
    }

    fn read(&self, page: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        self.inner.read(page, buffer)?;
        let end = page + (buffer.len() / PAGE_SIZE) as u64;
        for (own, bytes) in self.pages.range(page..end) {
            let start = (own - page) as usize * PAGE_SIZE;
            buffer[start..start + PAGE_SIZE].copy_from_slice(bytes);
        }
        Ok(())
    }

    /// A fork that maps the template would not get the pages that are its own, and so is refused.
    fn is_mapped_by(&self, mapped: &Mapped, page: u64) -> bool {
        let end = page + mapped.range.len() / PAGE_SIZE as u64;
        self.pages.range(page..end).next().is_none() && self.inner.is_mapped_by(mapped, page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of its own number, the second one zeros.
    struct Numbered;

    static BYTES: [[u8; PAGE_SIZE]; 4] = [[1; PAGE_SIZE], [0; PAGE_SIZE], [3; PAGE_SIZE], [4; PAGE_SIZE]];

    impl Template for Numbered {
        fn identity(&self) -> String {
            "numbered".into()
        }

        fn pages(&self) -> u64 {
            4
        }

        fn run(&self, page: u64, limit: u64) -> Run<'_> {
            let pages = limit.min(1);
            let content = match page {
                1 => Content::Zeros,
                page => Content::Resident(&BYTES[page as usize]),
            };
            Run { pages, content }
        }
    }

    #[test]
    fn only_the_changed_bytes_differ_from_the_template() {
        let mut refreshed = RefreshedTemplate::new(Arc::new(Numbered));
        // Across the border of two pages, one of which is zeros.
        let at = 2 * PAGE_SIZE as u64 - 4;
        refreshed.change(at, 8, |bytes| bytes.fill(9)).expect("changed");
        refreshed.change(at, 1, |bytes| bytes[0] += 1).expect("changed again");
        let mut all = vec![0; 4 * PAGE_SIZE];
        assemble(&refreshed, 0, &mut all).expect("whole");
        let mut expected = BYTES.concat();
        expected[at as usize..at as usize + 8].fill(9);
        expected[at as usize] = 10;
        assert_eq!(all, expected);
        assert_eq!(refreshed.run(0, 4).pages, 1);
    }
}
