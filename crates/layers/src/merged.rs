//! A merged view: what is seen of the layers above a stack's base, as one layer that is mapped instead of them.
//!
//! A process maps each piece of a stack on its own, so that the time to map a stack grows with the number of pieces. A view has
//! far fewer: pages that lie side by side lie side by side in the view, whichever layer they come from, and small gaps between them
//! are filled with what is seen below. A view is never written to disk, and its content is the stack's, byte by byte.

use crate::error::{Result, Step};
use crate::host_memory;
use crate::layer::{Durability, Extent, Layer};
use crate::stack::Stack;
use forkd_linux_sys::{PAGE_SIZE, memfd};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// A gap of more pages is not worth filling. Mapping an extent takes 2 to 5 µs each time, and costs faults later, since the
/// kernel maps pages ahead only within a mapping. Copying a page takes about 1 µs, once, and a view is mapped many times.
const GAP_PAGES_MAX: u64 = 64;
/// The pages copied into gaps are at most the view's own pages divided by this.
const FILL_SHARE: u64 = 2;

/// The pages between two runs.
#[derive(Debug, Clone, Copy)]
struct Gap {
    /// The run that ends where the gap begins.
    after: usize,
    /// The pages that would have to be copied. The others are zeros and take no memory.
    copied: u64,
}

/// A view that has not been made yet.
#[derive(Debug)]
pub struct Outline {
    runs: Vec<(u64, u64)>,
    /// The pages that take memory.
    pub pages: u64,
}

impl Outline {
    /// Plans a view of `stack` with at most `extents_max` extents, however many pages that takes, and with fewer where that is
    /// cheap.
    pub fn of(stack: &Stack, extents_max: usize) -> Outline {
        let runs = joined(stack.upper_runs());
        let own_pages: u64 = runs.iter().map(|(_, pages)| pages).sum();
        let mut gaps = gaps_between(&runs, stack);
        gaps.sort_unstable_by_key(|gap| (gap.copied, gap.after));
        let mut filled = vec![false; runs.len()];
        let (mut left, mut copied) = (runs.len(), 0);
        for gap in gaps {
            let is_cheap = gap.copied <= GAP_PAGES_MAX && copied + gap.copied <= own_pages / FILL_SHARE;
            if !is_cheap && left <= extents_max {
                break;
            }
            filled[gap.after] = true;
            copied += gap.copied;
            left -= 1;
        }
        Outline {
            runs: fill(runs, &filled),
            pages: own_pages + copied,
        }
    }

    pub fn extents(&self) -> usize {
        self.runs.len()
    }

    /// Makes the view. Fails with `OutOfMemory` if the host has no memory for it.
    pub fn make(&self, stack: &Stack) -> Result<Layer> {
        host_memory::require(self.pages, "a merged view of a stack")?;
        let total: u64 = self.runs.iter().map(|(_, pages)| pages).sum();
        let file = memfd::create(c"forkd-layer-view", total * PAGE_SIZE as u64)
            .step(|| "making room for a merged view".into())?;
        let mut extents = Vec::with_capacity(self.runs.len());
        let mut slot = 0;
        for &(page, pages) in &self.runs {
            copy(stack, page, pages, &file, slot).step(|| "filling a merged view".into())?;
            extents.push(Extent { page, slot, pages });
            slot += pages;
        }
        Layer::seal(file, stack.length, false, extents, Durability::Derived)
    }
}

/// Copies what is seen of `pages` pages from `page` on to place `slot` of `file`. Pages of zeros stay holes.
fn copy(stack: &Stack, page: u64, pages: u64, file: &File, slot: u64) -> std::io::Result<()> {
    let mut done = 0;
    while done < pages {
        let (count, bytes) = stack.run(page + done, pages - done);
        if let Some(bytes) = bytes {
            file.write_all_at(bytes, (slot + done) * PAGE_SIZE as u64)?;
        }
        done += count;
    }
    Ok(())
}

/// Joins runs that touch.
fn joined(runs: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (page, pages) in runs {
        match out.last_mut() {
            Some(last) if last.0 + last.1 == page => last.1 += pages,
            _ => out.push((page, pages)),
        }
    }
    out
}

fn gaps_between(runs: &[(u64, u64)], stack: &Stack) -> Vec<Gap> {
    let gap = |(after, pair): (usize, &[(u64, u64)])| {
        let (start, end) = (pair[0].0 + pair[0].1, pair[1].0);
        let mut copied = 0;
        let mut page = start;
        while page < end {
            let (count, bytes) = stack.run(page, end - page);
            copied += if bytes.is_some() { count } else { 0 };
            page += count;
        }
        Gap { after, copied }
    };
    runs.windows(2).enumerate().map(gap).collect()
}

/// Joins each run to the next one where the gap after it is filled.
fn fill(runs: Vec<(u64, u64)>, filled: &[bool]) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (index, (page, pages)) in runs.into_iter().enumerate() {
        match out.last_mut() {
            Some(last) if filled[index - 1] => last.1 = page + pages - last.0,
            _ => out.push((page, pages)),
        }
    }
    out
}

#[cfg(test)]
mod tests;
