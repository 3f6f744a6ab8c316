//! A stack of layers: which page comes from which, as one sorted list.

use crate::error::{LayerError, LayerErrorKind, Result, Step};
use crate::host_memory;
use crate::layer::{Durability, Extent, Layer};
use crate::signal::InUse;
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::{self, Mapping};
use std::sync::Arc;

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// Layers, bottom first, and what is seen of them from above.
#[derive(Debug)]
pub struct Stack {
    /// In bytes: a whole number of pages.
    pub length: u64,
    /// Bottom first. Without layers all pages are zeros.
    pub layers: Vec<Arc<Layer>>,
    /// Ascending, not overlapping. Pages in none of them are zeros.
    visible: Vec<Piece>,
    /// Declared after the layers, and so dropped after them.
    _in_use: Option<InUse>,
}

/// Consecutive pages of one layer of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The layer's place in [`Stack::layers`].
    pub layer: usize,
    pub extent: Extent,
}

impl Stack {
    /// A stack of `length` bytes of `layers`, bottom first.
    ///
    /// Fails with `Invalid` unless `length` is a positive number of whole pages, all layers have that length, and the first layer,
    /// and no other, is a base.
    pub fn new(length: u64, layers: Vec<Arc<Layer>>) -> Result<Stack> {
        if length == 0 || !length.is_multiple_of(PAGE_SIZE as u64) {
            return Err(LayerError::new(
                LayerErrorKind::Invalid,
                format!("{length} bytes is no length of a stack"),
            ));
        }
        for (depth, layer) in layers.iter().enumerate() {
            if layer.length != length || layer.is_base != (depth == 0) {
                return Err(LayerError::new(
                    LayerErrorKind::Invalid,
                    format!(
                        "layer {depth} of the stack does not belong there: it is {} for {} bytes instead of {length}",
                        if layer.is_base { "a base" } else { "a delta" },
                        layer.length
                    ),
                ));
            }
        }
        let visible = layers.iter().enumerate().fold(Vec::new(), |below, (index, layer)| {
            overlay(below, index, &layer.extents)
        });
        Ok(Stack {
            length,
            layers,
            visible,
            _in_use: None,
        })
    }

    /// Keeps `in_use` until this stack no longer uses its layers.
    pub(crate) fn with_guard(self, in_use: InUse) -> Stack {
        Stack {
            _in_use: Some(in_use),
            ..self
        }
    }

    /// The bytes of a page. `None` for a page that is in no layer, which is zeros.
    pub fn page(&self, page: u64) -> Option<&[u8]> {
        let after = self.visible.partition_point(|v| v.extent.page <= page);
        let Piece { layer, extent } = *self.visible[..after].last()?;
        let inside = page - extent.page;
        (inside < extent.pages).then(|| self.layers[layer].content(extent.slot + inside, 1))
    }

    /// The bytes of a page, zeros included.
    pub fn page_or_zeros(&self, page: u64) -> &[u8] {
        self.page(page).unwrap_or(&ZEROS)
    }

    /// The number and the bytes of the pages from `page` on that lie in one place, at most `limit` pages. `None` in place of the
    /// bytes: the pages are in no layer, so they are zeros.
    pub fn run(&self, page: u64, limit: u64) -> (u64, Option<&[u8]>) {
        let after = self.visible.partition_point(|v| v.extent.page <= page);
        if let Some(Piece { layer, extent }) = self.visible[..after].last() {
            let inside = page - extent.page;
            if inside < extent.pages {
                let pages = limit.min(extent.pages - inside);
                return (pages, Some(self.layers[*layer].content(extent.slot + inside, pages)));
            }
        }
        let end = self.visible.get(after).map_or(u64::MAX, |next| next.extent.page);
        (limit.min(end - page).min(self.length / PAGE_SIZE as u64 - page), None)
    }

    /// True if the stack shows, from `page` on, exactly the `pages` pages that lie at place `slot` of the file of layer `layer`.
    pub fn shows(&self, layer: usize, slot: u64, page: u64, pages: u64) -> bool {
        let first = self.visible.partition_point(|v| v.extent.page + v.extent.pages <= page);
        let inside = self.visible[first..]
            .iter()
            .take_while(|v| v.extent.page < page + pages);
        let mut seen = 0;
        for v in inside {
            // Page and slot must have the same distance everywhere.
            if v.layer != layer || v.extent.slot + page != slot + v.extent.page {
                return false;
            }
            seen += (v.extent.page + v.extent.pages).min(page + pages) - v.extent.page.max(page);
        }
        // The base's file has a hole, which reads as zeros, wherever no layer has a page.
        seen == pages || (layer == 0 && slot == page)
    }

    /// The visible parts of the layers, ascending: the layer's place in the list, the first page, and the bytes. Other pages are zeros.
    pub fn visible_runs(&self) -> impl Iterator<Item = (usize, u64, &[u8])> {
        self.visible.iter().map(|&Piece { layer, extent }| {
            let bytes = self.layers[layer].content(extent.slot, extent.pages);
            (layer, extent.page, bytes)
        })
    }

    /// The visible parts of the layers above the base, ascending: first page and number of pages.
    pub fn upper_runs(&self) -> impl Iterator<Item = (u64, u64)> {
        let upper = self.visible.iter().filter(|v| v.layer > 0);
        upper.map(|v| (v.extent.page, v.extent.pages))
    }

    /// How many pieces [`Stack::plan`] has.
    pub fn pieces(&self) -> usize {
        self.upper_runs().count() + usize::from(!self.layers.is_empty())
    }

    /// The pieces to map, in this order: the base as one piece, and over it what is seen of the other layers. Pages that are in no piece
    /// are zeros.
    pub fn plan(&self) -> Vec<Piece> {
        let whole = Extent {
            page: 0,
            slot: 0,
            pages: self.length / PAGE_SIZE as u64,
        };
        let base = (!self.layers.is_empty()).then_some(Piece {
            layer: 0,
            extent: whole,
        });
        let upper = self.visible.iter().filter(|piece| piece.layer > 0);
        base.into_iter().chain(upper.copied()).collect()
    }

    /// Makes one base layer with the content of the stack. Fails with `OutOfMemory` if the host has no memory for it.
    pub fn flatten(&self) -> Result<Layer> {
        let pages = self.visible.iter().map(|v| v.extent.pages).sum();
        host_memory::require(pages, "a flattened stack")?;
        let file =
            memfd::create(c"forkd-flattened", self.length).step(|| "making room for a flattened stack".into())?;
        let target = Mapping::read_write(&file, self.length as usize).step(|| "mapping a flattened stack".into())?;
        let mut extents: Vec<Extent> = Vec::new();
        for Piece { layer, extent } in &self.visible {
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
        Layer::seal(file, self.length, true, extents, Durability::Derived)
    }
}

/// Lays the extents of layer `index` over what is seen so far.
fn overlay(below: Vec<Piece>, index: usize, extents: &[Extent]) -> Vec<Piece> {
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
                    Piece {
                        extent: cut(piece.extent, piece.extent.page, piece_end.min(upper.page)),
                        ..piece
                    },
                );
            }
            if piece_end > end {
                current = Some(Piece {
                    extent: cut(piece.extent, end, piece_end),
                    ..piece
                });
                break;
            }
            current = lower.next();
        }
        push(
            &mut out,
            Piece {
                layer: index,
                extent: *upper,
            },
        );
    }
    current.into_iter().chain(lower).for_each(|piece| push(&mut out, piece));
    out
}

/// The pages `[from, to)` of `extent`.
fn cut(extent: Extent, from: u64, to: u64) -> Extent {
    extent.part(from - extent.page, to - from)
}

fn push(out: &mut Vec<Piece>, next: Piece) {
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
pub mod tests;
