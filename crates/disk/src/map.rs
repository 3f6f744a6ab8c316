//! The place of each block of a disk.
//!
//! A [`Map`] is a radix tree of three levels whose nodes are shared between maps. A clone is one pointer. A change copies the nodes
//! on its path that another map also has, so a clone never changes, however deep the stack of layers is that it stands for.

use std::ops::Range;
use std::sync::Arc;

/// Entries of a node.
const FANOUT: usize = 512;
const LEAF_BLOCKS: u64 = FANOUT as u64;
const BRANCH_BLOCKS: u64 = LEAF_BLOCKS * FANOUT as u64;

/// The most blocks that a map has room for.
pub const BLOCKS_MAX: u64 = BRANCH_BLOCKS * FANOUT as u64;

const SLOT_BITS: u32 = 40;

/// The most slots that a layer can have.
pub const SLOTS_MAX: u64 = 1 << SLOT_BITS;

/// The most layers that a process can number.
pub const LAYER_NUMBERS_MAX: u32 = 1 << (u64::BITS - SLOT_BITS);

/// The place of a block's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The number of a layer in this process; not zero.
    pub layer: u32,
    /// The place in the layer's file, in blocks.
    pub slot: u64,
}

impl Place {
    fn pack(self) -> u64 {
        debug_assert!(self.layer > 0 && self.layer < LAYER_NUMBERS_MAX && self.slot < SLOTS_MAX);
        u64::from(self.layer) << SLOT_BITS | self.slot
    }

    fn unpack(packed: u64) -> Option<Place> {
        let place = Place {
            layer: (packed >> SLOT_BITS) as u32,
            slot: packed & (SLOTS_MAX - 1),
        };
        (packed != 0).then_some(place)
    }
}

/// Consecutive blocks in consecutive slots of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub block: u64,
    pub blocks: u64,
    /// The place of the first block.
    pub place: Place,
}

/// Consecutive blocks that are in consecutive slots of one layer, or in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub blocks: u64,
    pub place: Option<Place>,
}

/// Packed places; zero is a block without content.
type Leaf = [u64; FANOUT];
type Node<T> = [Option<Arc<T>>; FANOUT];

/// The places of a disk's blocks. A block without a place is zeros.
#[derive(Debug, Clone)]
pub struct Map {
    root: Arc<Node<Node<Leaf>>>,
}

impl Default for Map {
    fn default() -> Map {
        Map {
            root: Arc::new(empty()),
        }
    }
}

fn empty<T>() -> Node<T> {
    [const { None }; FANOUT]
}

fn indices(block: u64) -> (usize, usize, usize) {
    assert!(block < BLOCKS_MAX, "a block of the map");
    let entry = |unit: u64| (block / unit) as usize % FANOUT;
    (entry(BRANCH_BLOCKS), entry(LEAF_BLOCKS), entry(1))
}

/// Part of a map: from a block to the end of a leaf, or to the end of a part without leaves.
enum Stretch<'a> {
    Places(&'a [u64]),
    Nothing(u64),
}

impl Map {
    /// The longest run from `block` on, of at most `max` blocks.
    pub fn run(&self, block: u64, max: u64) -> Run {
        let mut first = None;
        let mut blocks = 0;
        while blocks < max {
            match self.stretch(block + blocks) {
                Stretch::Nothing(_) if first.unwrap_or(0) != 0 => break,
                Stretch::Nothing(count) => {
                    first = Some(0);
                    blocks += count;
                }
                Stretch::Places(places) => {
                    let first = *first.get_or_insert(places[0]);
                    let expected = |index: u64| if first == 0 { 0 } else { first + index };
                    let same = (blocks..max)
                        .zip(places)
                        .take_while(|(index, place)| **place == expected(*index));
                    let count = same.count();
                    blocks += count as u64;
                    if count < places.len() {
                        break;
                    }
                }
            }
        }
        Run {
            blocks: blocks.min(max),
            place: Place::unpack(first.unwrap_or(0)),
        }
    }

    /// Calls `visit` for everything that has a place, in ascending order.
    pub fn extents(&self, mut visit: impl FnMut(Extent)) {
        let mut block = 0;
        while block < BLOCKS_MAX {
            let Run { blocks, place } = self.run(block, BLOCKS_MAX - block);
            if let Some(place) = place {
                visit(Extent { block, blocks, place });
            }
            block += blocks;
        }
    }

    /// Gives the blocks of `extent` their places.
    pub fn set(&mut self, extent: Extent) {
        let mut done = 0;
        while done < extent.blocks {
            let block = extent.block + done;
            let (_, _, first) = indices(block);
            let count = (extent.blocks - done).min((FANOUT - first) as u64);
            let leaf = self.leaf_mut(block);
            let packed = Place {
                slot: extent.place.slot + done,
                ..extent.place
            }
            .pack();
            for (index, place) in leaf[first..first + count as usize].iter_mut().enumerate() {
                *place = packed + index as u64;
            }
            done += count;
        }
    }

    /// Takes the places of `blocks` away.
    pub fn clear(&mut self, blocks: Range<u64>) {
        let mut block = blocks.start;
        while block < blocks.end {
            let next = match self.stretch(block) {
                Stretch::Nothing(count) => block + count,
                Stretch::Places(places) => block + places.len() as u64,
            };
            let end = next.min(blocks.end);
            self.clear_in_leaf(block, end);
            block = end;
        }
    }

    /// Clears blocks of one leaf, or of a part without leaves.
    fn clear_in_leaf(&mut self, block: u64, end: u64) {
        if matches!(self.stretch(block), Stretch::Nothing(_)) {
            return;
        }
        let (branch, leaf, first) = indices(block);
        let count = (end - block) as usize;
        if count < FANOUT {
            self.leaf_mut(block)[first..first + count].fill(0);
        } else if let Some(node) = &mut Arc::make_mut(&mut self.root)[branch] {
            Arc::make_mut(node)[leaf] = None;
        }
    }

    fn stretch(&self, block: u64) -> Stretch<'_> {
        let (branch, leaf, first) = indices(block);
        let rest = |unit: u64| unit - block % unit;
        match &self.root[branch] {
            None => Stretch::Nothing(rest(BRANCH_BLOCKS)),
            Some(node) => match &node[leaf] {
                None => Stretch::Nothing(rest(LEAF_BLOCKS)),
                Some(leaf) => Stretch::Places(&leaf[first..]),
            },
        }
    }

    fn leaf_mut(&mut self, block: u64) -> &mut Leaf {
        let (branch, leaf, _) = indices(block);
        let node = Arc::make_mut(&mut self.root)[branch].get_or_insert_with(|| Arc::new(empty()));
        let leaf = Arc::make_mut(node)[leaf].get_or_insert_with(|| Arc::new([0; FANOUT]));
        Arc::make_mut(leaf)
    }
}

#[cfg(test)]
mod tests;
