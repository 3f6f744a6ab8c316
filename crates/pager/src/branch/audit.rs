//! The audit of a branch: compares all of guest RAM, copied inside the pause, with the captured image.

use crate::error::{PagerError, Result, Step};
use forkd_capture::Source;
use forkd_layers::{Layer, Stack, host_memory};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::Mapping;
use forkd_protocol::{Audit, FaultCode};
use std::sync::Arc;

/// Guest RAM as it was in the pause.
pub struct PausedMemory {
    source: Source,
    memory: Mapping,
}

/// Copies of all memory per audit: one in the pause, and one more to count later changes.
const COPIES: u64 = 2;

impl PausedMemory {
    /// Fails if the host has no memory for an audit. Called before the pause.
    pub fn check_room(source: &Source) -> Result<()> {
        Ok(host_memory::require(
            source.bytes() / PAGE_SIZE as u64 * COPIES,
            "the audit of the branch",
        )?)
    }

    /// Copies all of the source's memory, which must not change meanwhile.
    pub fn take(source: Source) -> Result<PausedMemory> {
        let memory = read_all(&source)?;
        Ok(PausedMemory { source, memory })
    }

    /// Compares the memory, byte for byte, with the image that `layers` make. A page that differs fails the branch: its
    /// snapshot would match no instant.
    pub fn compare(&self, layers: &[Arc<Layer>], captured: &Layer) -> Result<Audit> {
        let now = read_all(&self.source)?;
        let stack = Stack::new(self.source.bytes(), layers.to_vec())?;
        let pages = self.source.bytes() / PAGE_SIZE as u64;
        let at =
            |memory: &'_ Mapping, page: u64| -> Vec<u8> { memory.bytes(page as usize * PAGE_SIZE, PAGE_SIZE).to_vec() };
        let mut differing = (0..pages).filter(|&page| stack.page_or_zeros(page) != at(&self.memory, page));
        if let Some(first) = differing.next() {
            let message = format!(
                "the audit found {} of {pages} pages that are not as they were in the pause, the first one page {first}",
                differing.count() + 1
            );
            return Err(PagerError::new(FaultCode::AuditFailed, message));
        }
        let listed = captured
            .extents
            .iter()
            .flat_map(|extent| extent.page..extent.page + extent.pages);
        let changed_since = listed.filter(|&page| at(&now, page) != at(&self.memory, page)).count() as u64;
        Ok(Audit {
            checked_pages: pages,
            differing_pages: 0,
            changed_since,
        })
    }
}

fn read_all(source: &Source) -> Result<Mapping> {
    source.copy().step(|| "copying guest memory".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::branch::sink::LayerSink;
    use forkd_capture::{CaptureSet, copy_still};
    use forkd_linux_sys::uffd::Range;

    const PAGES: u64 = 8;
    const SIZE: u64 = PAGE_SIZE as u64;

    /// The audit of a capture of the pages `set` of memory whose pages 2 and 5 have been written.
    fn audit(set: &[u64]) -> Result<Audit> {
        let memory = Mapping::anonymous((PAGES * SIZE) as usize).expect("map");
        memory.write(2 * PAGE_SIZE, &[7]);
        memory.write(5 * PAGE_SIZE, &[7]);
        let start = memory.target(0, memory.len()) as u64;
        let end = start + PAGES * SIZE;
        let source = Source::new(std::process::id() as i32, Range { start, end });
        let ranges = set.iter().map(|page| Range {
            start: page * SIZE,
            end: (page + 1) * SIZE,
        });
        let set = CaptureSet::new(&ranges.collect::<Vec<_>>());
        let below = Stack::new(PAGES * SIZE, Vec::new()).expect("a stack");
        let sink = LayerSink::new(Arc::new(below)).expect("a sink");
        copy_still(&source, &set, &sink, || false).expect("copy");
        let layer = Arc::new(sink.seal(&set).expect("seal"));
        let truth = PausedMemory::take(source).expect("the truth");
        truth.compare(std::slice::from_ref(&layer), &layer)
    }

    #[test]
    fn a_capture_with_every_page_passes() {
        let audit = audit(&[2, 5]).expect("nothing differs");
        assert_eq!((audit.checked_pages, audit.differing_pages), (PAGES, 0));
    }

    #[test]
    fn a_capture_without_a_page_fails_and_names_the_first() {
        let error = audit(&[2]).expect_err("page 5 is missing");
        assert_eq!(error.code, FaultCode::AuditFailed);
        assert!(
            error.message.contains("1 of 8 pages") && error.message.contains("page 5"),
            "{}",
            error.message
        );
        let error = audit(&[0]).expect_err("both are missing");
        assert!(
            error.message.contains("2 of 8 pages") && error.message.contains("page 2"),
            "{}",
            error.message
        );
    }
}
