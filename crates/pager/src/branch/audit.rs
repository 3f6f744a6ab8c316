//! The proof of a branch: all of guest RAM, copied inside the pause, held against the captured image.

use crate::error::{Result, Step};
use crate::layer::Layer;
use crate::stack::Stack;
use forkd_capture::Source;
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::Mapping;
use forkd_linux_sys::process::{self, Piece};
use forkd_protocol::Audit;
use std::sync::Arc;

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// Guest RAM as it was.
pub struct Truth {
    source: Source,
    memory: Mapping,
}

impl Truth {
    /// Copies all of the source's memory, which must not change meanwhile.
    pub fn take(source: Source) -> Result<Truth> {
        let memory = read_all(&source)?;
        Ok(Truth { source, memory })
    }

    /// Compares it, byte for byte, with the image that `layers` make.
    pub fn compare(&self, layers: &[Arc<Layer>], captured: &Layer) -> Result<Audit> {
        let now = read_all(&self.source)?;
        let stack = Stack::new(self.source.bytes(), layers.to_vec())?;
        let pages = self.source.bytes() / PAGE_SIZE as u64;
        let at =
            |memory: &'_ Mapping, page: u64| -> Vec<u8> { memory.bytes(page as usize * PAGE_SIZE, PAGE_SIZE).to_vec() };
        let differing = (0..pages).filter(|&page| stack.page(page).unwrap_or(&ZEROS) != at(&self.memory, page));
        let differing_pages = differing.count() as u64;
        let listed = captured
            .extents
            .iter()
            .flat_map(|extent| extent.page..extent.page + extent.pages);
        let changed_since = listed.filter(|&page| at(&now, page) != at(&self.memory, page)).count() as u64;
        Ok(Audit {
            checked_pages: pages,
            differing_pages,
            changed_since,
        })
    }
}

fn read_all(source: &Source) -> Result<Mapping> {
    let len = source.bytes() as usize;
    let memory = Mapping::anonymous(len).step(|| "making room for a copy of guest memory".into())?;
    let pieces: Vec<Piece> = source
        .regions()
        .iter()
        .map(|region| {
            let len = region.memory.len() as usize;
            Piece {
                local: memory.target(region.page as usize * PAGE_SIZE, len),
                remote: region.memory.start,
                len,
            }
        })
        .collect();
    // SAFETY: the pieces cover memory that was just mapped and that nobody else knows, each its own part.
    unsafe { process::read_memory(source.pid, &pieces) }.step(|| "copying guest memory".into())?;
    Ok(memory)
}
