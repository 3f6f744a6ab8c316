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
mod tests {
    use super::*;

    const PAGES: u64 = 64;

    /// A layer in which every page `p` of `runs` is filled with `fill`.
    fn layer(is_base: bool, fill: u8, runs: &[(u64, u64)]) -> Arc<Layer> {
        let file = memfd::create(c"test", PAGES * PAGE_SIZE as u64).expect("memfd");
        let target = Mapping::read_write(&file, (PAGES as usize) * PAGE_SIZE).expect("map");
        let mut slot = 0;
        let mut extents = Vec::new();
        for &(page, pages) in runs {
            let at = if is_base { page } else { slot };
            target.write(at as usize * PAGE_SIZE, &vec![fill; pages as usize * PAGE_SIZE]);
            extents.push(Extent { page, slot: at, pages });
            slot += pages;
        }
        drop(target);
        Arc::new(Layer::seal(file, PAGES * PAGE_SIZE as u64, is_base, extents, Durability::Pending).expect("seal"))
    }

    /// A small generator: the sequence depends on `seed` alone.
    fn random(seed: &mut u64, below: u64) -> u64 {
        *seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) % below
    }

    fn random_runs(seed: &mut u64) -> Vec<(u64, u64)> {
        let mut runs = Vec::new();
        let mut page = random(seed, 6);
        while page < PAGES {
            let pages = (1 + random(seed, 5)).min(PAGES - page);
            runs.push((page, pages));
            page += pages + random(seed, 7);
        }
        runs
    }

    #[test]
    fn the_topmost_layer_that_has_a_page_wins() {
        for round in 0..300u64 {
            let mut seed = round;
            let mut expected = [0u8; PAGES as usize];
            let mut layers = Vec::new();
            for depth in 0..=random(&mut seed, 6) {
                let runs = random_runs(&mut seed);
                let fill = depth as u8 + 1;
                runs.iter()
                    .for_each(|&(page, pages)| expected[page as usize..(page + pages) as usize].fill(fill));
                layers.push(layer(depth == 0, fill, &runs));
            }
            let stack = Stack::new(PAGES * PAGE_SIZE as u64, layers).expect("stack");
            let flat = stack.flatten().expect("flatten");
            for page in 0..PAGES {
                let found = stack.page(page).map_or(0, |bytes| bytes[0]);
                assert_eq!(found, expected[page as usize], "page {page}, seed {round}");
                assert_eq!(
                    flat.content(page, 1)[0],
                    expected[page as usize],
                    "flattened page {page}, seed {round}"
                );
            }
            let plan = stack.plan(usize::MAX).expect("plan");
            let mut mapped = [0u8; PAGES as usize];
            for extent in &plan.extents {
                for i in 0..extent.pages {
                    mapped[(extent.guest_page + i) as usize] =
                        plan.layers[extent.fd as usize].content(extent.file_page + i, 1)[0];
                }
            }
            assert_eq!(mapped, expected, "the mapped view, seed {round}");
        }
    }

    #[test]
    fn a_plan_that_is_too_long_is_flattened() {
        let delta: Vec<_> = (0..PAGES / 2).map(|i| (i * 2, 1)).collect();
        let stack = Stack::new(
            PAGES * PAGE_SIZE as u64,
            vec![layer(true, 1, &[(0, PAGES)]), layer(false, 2, &delta)],
        )
        .expect("stack");
        let plan = stack.plan(8).expect("plan");
        assert_eq!(plan.extents.len(), 1);
        assert_eq!(
            (plan.layers[0].content(0, 1)[0], plan.layers[0].content(1, 1)[0]),
            (2, 1)
        );
    }

    #[test]
    fn layers_that_do_not_fit_are_refused() {
        let size = PAGES * PAGE_SIZE as u64;
        assert!(
            Stack::new(size, vec![layer(false, 1, &[(0, 1)])]).is_err(),
            "a delta at the bottom"
        );
        assert!(
            Stack::new(size, vec![layer(true, 1, &[]), layer(true, 2, &[])]).is_err(),
            "a base above"
        );
        assert!(
            Stack::new(size * 2, vec![layer(true, 1, &[])]).is_err(),
            "another size of memory"
        );
        assert!(Stack::new(size + 1, Vec::new()).is_err(), "half a page");
    }
}
