//! The stacks that have a merged view, and those that are to get one.

use crate::stack::Stack;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// A stack by what it consists of: its length in bytes, and the numbers of its layers, bottom first.
pub type Key = (u64, Vec<u64>);

/// A plan of this many pieces takes less than a millisecond to map. No view is made for fewer.
pub const PIECES_FEW: usize = 256;
/// A stack that has been mapped this often will probably be mapped again.
const USES_MIN: u32 = 2;
/// How many stacks are counted, and how many wait for a view. Further stacks are not remembered, and are mapped more slowly.
const COUNTED_MAX: usize = 1024;
const WANTED_MAX: usize = 16;

/// A view that is to be made.
#[derive(Debug)]
pub struct Wanted {
    pub key: Key,
    pub stack: Arc<Stack>,
}

#[derive(Debug, Default)]
pub struct Views {
    /// The number on the shelf of each view.
    made: HashMap<Key, u64>,
    uses: HashMap<Key, u32>,
    wanted: VecDeque<Wanted>,
}

impl Views {
    /// The view of the longest part of a stack, from the bottom, that has one: the number of layers it stands for, and the view's
    /// number.
    pub fn find(&self, (length, layers): &Key) -> Option<(usize, u64)> {
        let view = |depth: usize| Some((depth, *self.made.get(&(*length, layers[..depth].to_vec()))?));
        (2..=layers.len()).rev().find_map(view)
    }

    /// Takes note that a stack is mapped, as `seen`. Returns true if a view of it is to be made now.
    pub fn note_use(&mut self, key: &Key, seen: &Arc<Stack>) -> bool {
        if seen.pieces() <= PIECES_FEW || self.made.contains_key(key) {
            return false;
        }
        if self.uses.len() >= COUNTED_MAX {
            self.uses.clear();
        }
        let count = self.uses.entry(key.clone()).or_default();
        *count += 1;
        let is_waiting = self.wanted.iter().any(|wanted| wanted.key == *key);
        if *count < USES_MIN || is_waiting || self.wanted.len() >= WANTED_MAX {
            return false;
        }
        self.wanted.push_back(Wanted {
            key: key.clone(),
            stack: seen.clone(),
        });
        true
    }

    pub fn next_wanted(&mut self) -> Option<Wanted> {
        let wanted = self.wanted.pop_front()?;
        // If the view is not made after all, the stack is counted from the beginning.
        self.uses.remove(&wanted.key);
        Some(wanted)
    }

    /// Adds a view. Returns the number of another view of the same stack, which it replaces.
    pub fn insert(&mut self, key: Key, number: u64) -> Option<u64> {
        self.made.insert(key, number)
    }

    /// Forgets a view that was dropped. Returns false if `number` is no view.
    pub fn forget(&mut self, number: u64) -> bool {
        let count = self.made.len();
        self.made.retain(|_, view| *view != number);
        self.made.len() < count
    }

    /// The numbers of the views: of those that contain the layer `with`, or of all.
    pub fn numbers(&self, with: Option<u64>) -> Vec<u64> {
        let has = |(_, layers): &Key| with.is_none_or(|number| layers.contains(&number));
        self.made
            .iter()
            .filter(|(key, _)| has(key))
            .map(|(_, view)| *view)
            .collect()
    }

    pub fn has(&self, key: &Key) -> bool {
        self.made.contains_key(key)
    }
}
