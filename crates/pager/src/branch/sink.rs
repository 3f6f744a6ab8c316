//! Where the pages of a branch go: a memfd, which becomes a layer that holds only what differs from those below.

use crate::error::{Result, Step};
use crate::layer::{Durability, Extent, Layer};
use crate::stack::Stack;
use forkd_capture::{CaptureSet, Run, Sink};
use forkd_linux_sys::{PAGE_SIZE, memfd};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// A layer that is being filled.
pub struct LayerSink {
    file: File,
    below: Arc<Stack>,
    /// A bit for each page of guest memory that differs from what is below.
    kept: Vec<AtomicU64>,
}

impl LayerSink {
    /// Room for a layer over `below`. It takes up memory only where pages are kept.
    pub fn new(below: Arc<Stack>) -> Result<LayerSink> {
        let file = memfd::create(c"forkd-layer", below.mem_bytes).step(|| "making room for a layer".into())?;
        let words = (below.mem_bytes / PAGE_SIZE as u64).div_ceil(64) as usize;
        let kept = std::iter::repeat_with(AtomicU64::default).take(words).collect();
        Ok(LayerSink { file, below, kept })
    }

    /// The bottom of a stack has every page at its own place, so that one mapping covers the VM. The pages of a delta are
    /// packed by rank.
    fn is_base(&self) -> bool {
        self.below.layers.is_empty()
    }

    fn slot(&self, run: Run) -> u64 {
        if self.is_base() { run.page } else { run.first_rank }
    }

    fn differs(&self, page: u64, bytes: &[u8]) -> bool {
        bytes != self.below.page(page).unwrap_or(&ZEROS)
    }

    fn keep(&self, run: Run, bytes: &[u8]) -> io::Result<()> {
        for page in run.page..run.page + run.pages {
            self.kept[page as usize / 64].fetch_or(1 << (page % 64), Ordering::Relaxed);
        }
        self.file.write_all_at(bytes, self.slot(run) * PAGE_SIZE as u64)
    }

    fn is_kept(&self, page: u64) -> bool {
        self.kept[page as usize / 64].load(Ordering::Relaxed) & (1 << (page % 64)) != 0
    }

    /// The kept pages of a complete set, ascending.
    fn extents(&self, set: &CaptureSet) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        for run in set.runs() {
            for skip in (0..run.pages).filter(|skip| self.is_kept(run.page + skip)) {
                let one = run.part(skip, 1);
                let (page, slot) = (one.page, self.slot(one));
                match extents.last_mut() {
                    Some(last) if last.page + last.pages == page && last.slot + last.pages == slot => last.pages += 1,
                    _ => extents.push(Extent { page, slot, pages: 1 }),
                }
            }
        }
        extents.sort_unstable_by_key(|extent| extent.page);
        extents
    }

    /// Seals the layer. Every page of `set` must have been put.
    pub fn seal(&self, set: &CaptureSet) -> Result<Layer> {
        let file = self
            .file
            .try_clone()
            .step(|| "duplicating a layer's descriptor".into())?;
        Layer::seal(
            file,
            self.below.mem_bytes,
            self.is_base(),
            self.extents(set),
            Durability::Pending,
        )
    }
}

impl Sink for LayerSink {
    fn put(&self, run: Run, bytes: &[u8]) -> io::Result<()> {
        let differs = |skip: u64| self.differs(run.page + skip, &bytes[skip as usize * PAGE_SIZE..][..PAGE_SIZE]);
        let mut skip = 0;
        while skip < run.pages {
            let same = (skip..run.pages).take_while(|skip| !differs(*skip)).count() as u64;
            let first = skip + same;
            let changed = (first..run.pages).take_while(|skip| differs(*skip)).count() as u64;
            if changed > 0 {
                let bytes = &bytes[first as usize * PAGE_SIZE..][..changed as usize * PAGE_SIZE];
                self.keep(run.part(first, changed), bytes)?;
            }
            skip = first + changed;
        }
        Ok(())
    }
}
