//! A layer: an immutable set of pages in a sealed memfd.

use crate::blob::Blob;
use crate::error::{LayerError, LayerErrorKind, Result, Step};
use crate::shelf::Kept;
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::{self, Mapping};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::{Condvar, Mutex};

/// The unit of `st_blocks`, whatever the file system.
const BLOCK_BYTES: u64 = 512;

/// Consecutive pages that are consecutive in the layer's memfd too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first page, as seen in a stack.
    pub page: u64,
    /// The place of the first page in the memfd, in pages.
    pub slot: u64,
    pub pages: u64,
}

impl Extent {
    /// The page after the last one.
    pub fn end(self) -> u64 {
        self.page + self.pages
    }

    /// `pages` of the pages, after the first `skip`.
    pub fn part(self, skip: u64, pages: u64) -> Extent {
        Extent {
            page: self.page + skip,
            slot: self.slot + skip,
            pages,
        }
    }
}

/// Whether a layer has reached the disk.
#[derive(Debug, Clone)]
pub enum Durability {
    /// The layer is being written.
    Pending,
    /// The layer is on disk.
    Durable(Blob),
    /// The layer could not be written.
    Failed(LayerError),
    /// Made of other layers. It is never written to disk.
    Derived,
}

/// Pages that never change again.
#[derive(Debug)]
pub struct Layer {
    /// True for the bottom of a stack, and for no other layer. A base has every page at its own place in a file of `length` bytes,
    /// so that one mapping covers all.
    pub is_base: bool,
    /// The length of the stacks that this layer fits into, in bytes: a whole number of pages.
    pub length: u64,
    /// Ascending by page. No two of them touch in both page and slot.
    pub extents: Vec<Extent>,
    /// The sealed memfd, for processes to map.
    pub file: File,
    content: Mapping,
    durability: Mutex<Durability>,
    settled: Condvar,
}

impl Layer {
    /// Seals `file`, a memfd, and makes a layer of it. Fails if a process has the file mapped for writing. `extents` ascend and do
    /// not overlap.
    pub fn seal(file: File, length: u64, is_base: bool, extents: Vec<Extent>, durability: Durability) -> Result<Layer> {
        assert!(
            extents.is_sorted_by(|a, b| a.page + a.pages <= b.page),
            "extents ascend and do not overlap"
        );
        let size = extents.iter().map(|e| e.slot + e.pages).max().unwrap_or(0) * PAGE_SIZE as u64;
        let size = if is_base { length } else { size };
        file.set_len(size).step(|| "cutting a layer to its size".into())?;
        memfd::seal(&file).step(|| "sealing a layer".into())?;
        let content = Mapping::read_only(&file, size as usize).step(|| "mapping a layer".into())?;
        Ok(Layer {
            is_base,
            length,
            extents,
            file,
            content,
            durability: Mutex::new(durability),
            settled: Condvar::new(),
        })
    }

    /// How many pages the layer holds.
    pub fn pages(&self) -> u64 {
        self.extents.iter().map(|e| e.pages).sum()
    }

    /// The bytes of `pages` pages from place `slot` of the memfd on.
    pub fn content(&self, slot: u64, pages: u64) -> &[u8] {
        self.content
            .bytes(slot as usize * PAGE_SIZE, pages as usize * PAGE_SIZE)
    }

    /// Says what became of writing the layer to disk, and wakes threads in [`Layer::wait_durable`].
    pub fn set_durability(&self, durability: Durability) {
        *self.durability.lock().expect("no panic while held") = durability;
        self.settled.notify_all();
    }

    /// The layer's digest, if the layer is on disk.
    pub fn digest(&self) -> Option<String> {
        match &*self.durability.lock().expect("no panic while held") {
            Durability::Durable(blob) => Some(blob.digest.clone()),
            _ => None,
        }
    }

    /// Waits until the layer is on disk. Fails if it could not be written.
    pub fn wait_durable(&self) -> Result<Blob> {
        let state = self.durability.lock().expect("no panic while held");
        let pending = |state: &mut Durability| matches!(state, Durability::Pending);
        match &*self.settled.wait_while(state, pending).expect("no panic while held") {
            Durability::Durable(blob) => Ok(blob.clone()),
            Durability::Failed(error) => Err(LayerError::new(
                error.kind,
                format!("a layer below was never written to disk: {}", error.message),
            )),
            Durability::Pending => Err(LayerError::new(
                LayerErrorKind::Io,
                "a layer below is still being written",
            )),
            Durability::Derived => Err(LayerError::new(
                LayerErrorKind::Internal,
                "a layer that was made of others is not written to disk",
            )),
        }
    }
}

impl Kept for Layer {
    /// The memory that the memfd takes. It grows when a hole is read: the kernel makes the hole a page of zeros.
    fn bytes(&self) -> u64 {
        self.file
            .metadata()
            .map_or(self.pages() * PAGE_SIZE as u64, |found| found.blocks() * BLOCK_BYTES)
    }

    fn may_go(&self) -> bool {
        let durability = self.durability.lock().expect("no panic while held");
        matches!(&*durability, Durability::Durable(_) | Durability::Derived)
    }
}
