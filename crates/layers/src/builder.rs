//! A layer that is being filled.

use crate::error::{Result, Step};
use crate::layer::{Durability, Extent, Layer};
use crate::stack::Stack;
use forkd_linux_sys::{PAGE_SIZE, memfd};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Fills a layer over a stack. Pages that are the same as in the stack are left out. Any number of threads may put pages.
pub struct LayerBuilder {
    file: File,
    below: Arc<Stack>,
    /// A bit per page, set if the page differs from the one below.
    kept: Vec<AtomicU64>,
}

impl LayerBuilder {
    /// Begins a layer over `below`: a base if `below` has no layers. It takes memory only for the pages that are kept.
    pub fn new(below: Arc<Stack>) -> Result<LayerBuilder> {
        let file = memfd::create(c"forkd-layer", below.length).step(|| "making room for a layer".into())?;
        let words = (below.length / PAGE_SIZE as u64).div_ceil(64) as usize;
        let kept = std::iter::repeat_with(AtomicU64::default).take(words).collect();
        Ok(LayerBuilder { file, below, kept })
    }

    /// Puts pages, of which `bytes` are the content. No two pages may have the same slot.
    pub fn put(&self, pages: Extent, bytes: &[u8]) -> io::Result<()> {
        let page = |skip: u64| &bytes[skip as usize * PAGE_SIZE..][..PAGE_SIZE];
        let differs = |skip: u64| page(skip) != self.below.page_or_zeros(pages.page + skip);
        let mut skip = 0;
        while skip < pages.pages {
            let same = (skip..pages.pages).take_while(|skip| !differs(*skip)).count() as u64;
            let first = skip + same;
            let changed = (first..pages.pages).take_while(|skip| differs(*skip)).count() as u64;
            if changed > 0 {
                let bytes = &bytes[first as usize * PAGE_SIZE..][..changed as usize * PAGE_SIZE];
                self.keep(pages.part(first, changed), bytes)?;
            }
            skip = first + changed;
        }
        Ok(())
    }

    /// Seals the layer. `pages` are all that were put, with the slots that they were put with.
    pub fn seal(&self, pages: impl Iterator<Item = Extent>) -> Result<Layer> {
        let file = self
            .file
            .try_clone()
            .step(|| "duplicating a layer's descriptor".into())?;
        Layer::seal(
            file,
            self.below.length,
            self.is_base(),
            self.kept_extents(pages),
            Durability::Pending,
        )
    }

    fn is_base(&self) -> bool {
        self.below.layers.is_empty()
    }

    /// The place of the first of `pages` in the file. A base has every page at its own place, so that one mapping covers all.
    fn slot(&self, pages: Extent) -> u64 {
        if self.is_base() { pages.page } else { pages.slot }
    }

    fn keep(&self, pages: Extent, bytes: &[u8]) -> io::Result<()> {
        for page in pages.page..pages.end() {
            self.kept[page as usize / 64].fetch_or(1 << (page % 64), Ordering::Relaxed);
        }
        self.file.write_all_at(bytes, self.slot(pages) * PAGE_SIZE as u64)
    }

    fn is_kept(&self, page: u64) -> bool {
        self.kept[page as usize / 64].load(Ordering::Relaxed) & (1 << (page % 64)) != 0
    }

    /// The kept ones of `pages`, ascending.
    fn kept_extents(&self, pages: impl Iterator<Item = Extent>) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        for run in pages {
            for skip in (0..run.pages).filter(|skip| self.is_kept(run.page + skip)) {
                let one = run.part(skip, 1);
                let (page, slot) = (one.page, self.slot(one));
                match extents.last_mut() {
                    Some(last) if last.end() == page && last.slot + last.pages == slot => last.pages += 1,
                    _ => extents.push(Extent { page, slot, pages: 1 }),
                }
            }
        }
        extents.sort_unstable_by_key(|extent| extent.page);
        extents
    }
}
