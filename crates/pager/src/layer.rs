//! A layer: an immutable set of guest pages in a sealed memfd.

use crate::error::{PagerError, Result, Step};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::{self, Mapping};
use forkd_protocol::{Blob, FaultCode};
use std::fs::File;
use std::sync::{Condvar, Mutex};

/// Consecutive guest pages that are consecutive in the layer's memfd too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first guest page.
    pub page: u64,
    /// Where it is in the memfd, in pages.
    pub slot: u64,
    pub pages: u64,
}

/// Whether a layer has reached the disk.
#[derive(Debug, Clone)]
pub enum Durability {
    Pending,
    Durable(Blob),
    Failed(PagerError),
}

/// Pages of guest memory that never change again.
#[derive(Debug)]
pub struct Layer {
    /// Holds every page at its own place in a file as large as guest memory, so that one mapping covers the VM. Only the
    /// bottom of a stack is.
    pub is_base: bool,
    pub mem_bytes: u64,
    /// Ascending by page, no two of them touching in both page and slot.
    pub extents: Vec<Extent>,
    pub file: File,
    content: Mapping,
    durability: Mutex<Durability>,
    settled: Condvar,
}

impl Layer {
    /// Seals `file` and makes a layer of it. Nothing may have it mapped for writing.
    pub fn seal(
        file: File,
        mem_bytes: u64,
        is_base: bool,
        extents: Vec<Extent>,
        durability: Durability,
    ) -> Result<Layer> {
        assert!(
            extents.is_sorted_by(|a, b| a.page + a.pages <= b.page),
            "extents ascend and do not overlap"
        );
        let size = extents.iter().map(|e| e.slot + e.pages).max().unwrap_or(0) * PAGE_SIZE as u64;
        let size = if is_base { mem_bytes } else { size };
        file.set_len(size).step(|| "cutting a layer to its size".into())?;
        memfd::seal(&file).step(|| "sealing a layer".into())?;
        let content = Mapping::read_only(&file, size as usize).step(|| "mapping a layer".into())?;
        Ok(Layer {
            is_base,
            mem_bytes,
            extents,
            file,
            content,
            durability: Mutex::new(durability),
            settled: Condvar::new(),
        })
    }

    /// How many pages it holds.
    pub fn pages(&self) -> u64 {
        self.extents.iter().map(|e| e.pages).sum()
    }

    /// The bytes of `pages` pages from `slot`.
    pub fn content(&self, slot: u64, pages: u64) -> &[u8] {
        self.content
            .bytes(slot as usize * PAGE_SIZE, pages as usize * PAGE_SIZE)
    }

    pub fn set_durability(&self, durability: Durability) {
        *self.durability.lock().expect("no panic while held") = durability;
        self.settled.notify_all();
    }

    /// Its digest, if it is on disk.
    pub fn digest(&self) -> Option<String> {
        match &*self.durability.lock().expect("no panic while held") {
            Durability::Durable(blob) => Some(blob.digest.clone()),
            _ => None,
        }
    }

    /// Waits until it is on disk. Fails when its own branch failed to get it there.
    pub fn wait_durable(&self) -> Result<Blob> {
        let state = self.durability.lock().expect("no panic while held");
        let pending = |state: &mut Durability| matches!(state, Durability::Pending);
        match &*self.settled.wait_while(state, pending).expect("no panic while held") {
            Durability::Durable(blob) => Ok(blob.clone()),
            Durability::Failed(error) => Err(PagerError::new(
                error.code,
                format!("a layer below was never written to disk: {}", error.message),
            )),
            Durability::Pending => Err(PagerError::new(FaultCode::Io, "a layer below is still being written")),
        }
    }
}
