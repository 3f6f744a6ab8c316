//! A stack of layers: which page comes from which, as one sorted list.

use crate::error::{PagerError, Result, Step};
use crate::layer::{Durability, Extent, Layer};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::{self, Mapping};
use forkd_protocol::{FaultCode, plan};
use std::sync::{Arc, OnceLock};

/// Layers, bottom first, and what is seen of them from above.
#[derive(Debug)]
pub struct Stack {
    pub mem_bytes: u64,
    pub layers: Vec<Arc<Layer>>,
    /// Ascending, not overlapping. Pages in none of them are zeros.
    visible: Vec<Visible>,
    /// The same content as one base layer, made when the list is too long to be mapped piece by piece.
    flattened: OnceLock<Arc<Layer>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Visible {
    layer: usize,
    extent: Extent,
}

/// What a VMM maps: the layers, and the plan that names them by their place in the list.
pub struct Plan {
    pub layers: Vec<Arc<Layer>>,
    pub extents: Vec<plan::Extent>,
}

impl Stack {
    pub fn new(mem_bytes: u64, layers: Vec<Arc<Layer>>) -> Result<Stack> {
        if mem_bytes == 0 || !mem_bytes.is_multiple_of(PAGE_SIZE as u64) {
            return Err(PagerError::new(
                FaultCode::BadRequest,
                format!("{mem_bytes} bytes is no size of memory"),
            ));
        }
        for (depth, layer) in layers.iter().enumerate() {
            if layer.mem_bytes != mem_bytes || layer.is_base != (depth == 0) {
                return Err(PagerError::new(
                    FaultCode::BadRequest,
                    format!(
                        "layer {depth} of the stack does not belong there: it is {} for {} bytes of memory, wanted are {mem_bytes}",
                        if layer.is_base { "a base" } else { "a delta" },
                        layer.mem_bytes
                    ),
                ));
            }
        }
        let visible = layers.iter().enumerate().fold(Vec::new(), |below, (index, layer)| {
            overlay(below, index, &layer.extents)
        });
        Ok(Stack {
            mem_bytes,
            layers,
            visible,
            flattened: OnceLock::new(),
        })
    }

    /// The bytes of a page, `None` for one that is in no layer and thus zeros.
    pub fn page(&self, page: u64) -> Option<&[u8]> {
        let after = self.visible.partition_point(|v| v.extent.page <= page);
        let Visible { layer, extent } = *self.visible[..after].last()?;
        let inside = page - extent.page;
        (inside < extent.pages).then(|| self.layers[layer].content(extent.slot + inside, 1))
    }

    /// The bytes of `page` and of those after it, at most `limit` of them, as far as they are in one place; and how many
    /// those are. Without bytes they are in no layer, and thus zeros.
    pub fn run(&self, page: u64, limit: u64) -> (u64, Option<&[u8]>) {
        let after = self.visible.partition_point(|v| v.extent.page <= page);
        if let Some(Visible { layer, extent }) = self.visible[..after].last() {
            let inside = page - extent.page;
            if inside < extent.pages {
                let pages = limit.min(extent.pages - inside);
                return (pages, Some(self.layers[*layer].content(extent.slot + inside, pages)));
            }
        }
        let end = self.visible.get(after).map_or(u64::MAX, |next| next.extent.page);
        (
            limit.min(end - page).min(self.mem_bytes / PAGE_SIZE as u64 - page),
            None,
        )
    }

    /// Whether `pages` pages from `slot` on of a layer's file are what is seen of the stack at `page`.
    pub fn shows(&self, layer: usize, slot: u64, page: u64, pages: u64) -> bool {
        let first = self.visible.partition_point(|v| v.extent.page + v.extent.pages <= page);
        let inside = self.visible[first..]
            .iter()
            .take_while(|v| v.extent.page < page + pages);
        let mut seen = 0;
        for v in inside {
            // Each page is as far from its slot as the first one.
            if v.layer != layer || v.extent.slot + page != slot + v.extent.page {
                return false;
            }
            seen += (v.extent.page + v.extent.pages).min(page + pages) - v.extent.page.max(page);
        }
        // The base has a hole, which is zeros, where no layer has a page.
        seen == pages || (layer == 0 && slot == page)
    }

    /// What is seen of the layers, ascending: of each run its layer's place in the list, its first page, and its bytes. The rest
    /// is zeros.
    pub fn visible_runs(&self) -> impl Iterator<Item = (usize, u64, &[u8])> {
        self.visible.iter().map(|&Visible { layer, extent }| {
            let bytes = self.layers[layer].content(extent.slot, extent.pages);
            (layer, extent.page, bytes)
        })
    }

    /// What to map: the base as one piece, and over it what is seen of the others. At most `extents_max` pieces.
    pub fn plan(&self, extents_max: usize) -> Result<Plan> {
        let Some(base) = self.layers.first() else {
            return Ok(Plan {
                layers: Vec::new(),
                extents: Vec::new(),
            });
        };
        let whole = plan::Extent {
            fd: 0,
            guest_page: 0,
            file_page: 0,
            pages: self.mem_bytes / PAGE_SIZE as u64,
        };
        let upper = self.visible.iter().filter(|v| v.layer > 0);
        if upper.clone().count() >= extents_max {
            return Ok(Plan {
                layers: vec![self.flatten()?],
                extents: vec![whole],
            });
        }
        debug_assert!(base.is_base, "checked when the stack was made");
        let pieces = upper.map(|v| plan::Extent {
            fd: v.layer as u64,
            guest_page: v.extent.page,
            file_page: v.extent.slot,
            pages: v.extent.pages,
        });
        Ok(Plan {
            layers: self.layers.clone(),
            extents: std::iter::once(whole).chain(pieces).collect(),
        })
    }

    /// All that is seen of the layers as one base layer.
    pub fn flatten(&self) -> Result<Arc<Layer>> {
        if let Some(layer) = self.flattened.get() {
            return Ok(layer.clone());
        }
        let file =
            memfd::create(c"forkd-flattened", self.mem_bytes).step(|| "making room for a flattened stack".into())?;
        let target = Mapping::read_write(&file, self.mem_bytes as usize).step(|| "mapping a flattened stack".into())?;
        let mut extents: Vec<Extent> = Vec::new();
        for Visible { layer, extent } in &self.visible {
            target.write(
                extent.page as usize * PAGE_SIZE,
                self.layers[*layer].content(extent.slot, extent.pages),
            );
            match extents.last_mut() {
                Some(last) if last.page + last.pages == extent.page => last.pages += extent.pages,
                _ => extents.push(Extent {
                    page: extent.page,
                    slot: extent.page,
                    pages: extent.pages,
                }),
            }
        }
        drop(target);
        let layer = Layer::seal(file, self.mem_bytes, true, extents, Durability::Pending)?;
        Ok(self.flattened.get_or_init(|| Arc::new(layer)).clone())
    }
}

/// Lays the extents of layer `index` over what is seen so far.
fn overlay(below: Vec<Visible>, index: usize, extents: &[Extent]) -> Vec<Visible> {
    let mut out = Vec::with_capacity(below.len() + extents.len());
    let mut lower = below.into_iter();
    let mut current = lower.next();
    for upper in extents {
        let end = upper.page + upper.pages;
        while let Some(piece) = current.filter(|piece| piece.extent.page < end) {
            let piece_end = piece.extent.page + piece.extent.pages;
            if piece.extent.page < upper.page {
                push(
                    &mut out,
                    Visible {
                        extent: cut(piece.extent, piece.extent.page, piece_end.min(upper.page)),
                        ..piece
                    },
                );
            }
            if piece_end > end {
                current = Some(Visible {
                    extent: cut(piece.extent, end, piece_end),
                    ..piece
                });
                break;
            }
            current = lower.next();
        }
        push(
            &mut out,
            Visible {
                layer: index,
                extent: *upper,
            },
        );
    }
    current.into_iter().chain(lower).for_each(|piece| push(&mut out, piece));
    out
}

/// The part of `extent` in `[from, to)`.
fn cut(extent: Extent, from: u64, to: u64) -> Extent {
    Extent {
        page: from,
        slot: extent.slot + (from - extent.page),
        pages: to - from,
    }
}

fn push(out: &mut Vec<Visible>, next: Visible) {
    if let Some(last) = out.last_mut().filter(|last| last.layer == next.layer) {
        let (a, b) = (last.extent, next.extent);
        if a.page + a.pages == b.page && a.slot + a.pages == b.slot {
            last.extent.pages += b.pages;
            return;
        }
    }
    out.push(next);
}

#[cfg(test)]
mod tests;
