//! Layers as files of the store. A flat file can share their blocks where the file system knows how.

use crate::blobs::Blobs;
use crate::file;
use crate::layer::Layer;
use crate::stack::Stack;
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::reflink;
use std::fs::File;

/// Fewer pages are written rather than shared: sharing takes longer, and leaves the file in more pieces.
const PAGES_MIN: u64 = 16;

/// The files of a stack's layers.
pub struct Stored<'a> {
    /// In the order of the stack. `None` for a layer that is not on disk.
    layers: Vec<Option<StoredLayer<'a>>>,
    /// True until the file system has refused once.
    shares: bool,
}

struct StoredLayer<'a> {
    layer: &'a Layer,
    file: File,
    /// For each extent, the page of the file where it begins.
    starts: Vec<u64>,
}

impl<'a> Stored<'a> {
    pub fn open(stack: &'a Stack, blobs: &Blobs) -> Stored<'a> {
        let layers = stack
            .layers
            .iter()
            .map(|layer| StoredLayer::open(layer, blobs))
            .collect();
        Stored { layers, shares: true }
    }

    /// Makes `out` share the blocks of `pages` pages from `page` on, which are in one extent of the layer. Returns false if the
    /// caller must write them.
    pub fn share(&mut self, layer: usize, page: u64, pages: u64, out: &File) -> bool {
        if !self.shares || pages < PAGES_MIN {
            return false;
        }
        let Some(stored) = &self.layers[layer] else {
            return false;
        };
        let Some(start) = stored.page_in_file(page) else {
            return false;
        };
        let [from, length, to] = [start, pages, page].map(|pages| pages * PAGE_SIZE as u64);
        self.shares = reflink::clone_range(&stored.file, from, length, out, to).is_ok();
        self.shares
    }
}

impl<'a> StoredLayer<'a> {
    fn open(layer: &'a Layer, blobs: &Blobs) -> Option<StoredLayer<'a>> {
        let file = File::open(blobs.path(&layer.digest()?).ok()?).ok()?;
        let first = file::head_pages(layer);
        let starts = layer.extents.iter().scan(first, |next, extent| {
            let start = *next;
            *next += extent.pages;
            Some(start)
        });
        let starts = starts.collect();
        Some(StoredLayer { layer, file, starts })
    }

    fn page_in_file(&self, page: u64) -> Option<u64> {
        let extents = &self.layer.extents;
        let index = extents.partition_point(|extent| extent.page <= page).checked_sub(1)?;
        let inside = page - extents[index].page;
        (inside < extents[index].pages).then(|| self.starts[index] + inside)
    }
}
