//! Which captured pages a layer keeps: those that differ from what is below.

use crate::capture::{CaptureSet, Run, Sink};
use crate::error::{Result, Step};
use crate::layer::Extent;
use crate::stack::Stack;
use forkd_linux_sys::{PAGE_SIZE, memfd};
use std::fs::File;

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Open,
    Keep,
    Drop,
}

/// The verdict on each page of a set, by rank.
#[derive(Debug)]
pub struct Kept {
    verdicts: Vec<Verdict>,
}

impl Kept {
    pub fn new(pages: u64) -> Kept {
        Kept {
            verdicts: vec![Verdict::Open; pages as usize],
        }
    }

    /// Judges pages that have been copied.
    pub fn compare(&mut self, run: Run, sink: &Sink, below: &Stack) {
        for (page, rank) in pages(run) {
            let same = sink.page(page, rank) == below.page(page).unwrap_or(&ZEROS);
            self.verdicts[rank as usize] = if same { Verdict::Drop } else { Verdict::Keep };
        }
    }

    /// Judges all that have not been judged. Every page must have been copied.
    pub fn compare_rest(&mut self, set: &CaptureSet, sink: &Sink, below: &Stack) {
        for run in set.runs() {
            for (page, rank) in pages(run) {
                if self.verdicts[rank as usize] == Verdict::Open {
                    self.compare(
                        Run {
                            page,
                            pages: 1,
                            first_rank: rank,
                        },
                        sink,
                        below,
                    );
                }
            }
        }
    }

    /// The extents of what is kept, ascending by page. The memory of what is not goes back to the host.
    pub fn extents(&self, set: &CaptureSet, in_place: bool, file: &File) -> Result<Vec<Extent>> {
        let mut kept: Vec<Extent> = Vec::new();
        let mut dropped: Vec<Extent> = Vec::new();
        for (page, rank) in set.runs().flat_map(pages) {
            let slot = if in_place { page } else { rank };
            let list = if self.verdicts[rank as usize] == Verdict::Keep {
                &mut kept
            } else {
                &mut dropped
            };
            match list.last_mut() {
                Some(last) if last.page + last.pages == page && last.slot + last.pages == slot => last.pages += 1,
                _ => list.push(Extent { page, slot, pages: 1 }),
            }
        }
        for hole in dropped {
            memfd::punch_hole(file, hole.slot * PAGE_SIZE as u64, hole.pages * PAGE_SIZE as u64)
                .step(|| "giving back pages that did not change".into())?;
        }
        kept.sort_unstable_by_key(|extent| extent.page);
        Ok(kept)
    }
}

fn pages(run: Run) -> impl Iterator<Item = (u64, u64)> {
    (0..run.pages).map(move |offset| (run.page + offset, run.first_rank + offset))
}
