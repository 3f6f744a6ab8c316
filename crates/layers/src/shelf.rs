//! Values in memory. Unused values are dropped by a budget, the least recently used first.
//!
//! 1. `put`: the value is on the shelf, and in use.
//! 2. `get` hands out its `Arc`. The value is in use as long as an `Arc` exists outside the shelf.
//! 3. `take_surplus` finds no `Arc` outside the shelf: the value counts as unused from then on.
//! 4. A later `take_surplus` takes it off the shelf, if the unused values exceed the budget and it has been unused the longest.
//!
//! All of this happens under the owner's lock. An `Arc` can only come from `get`, so a value that only the shelf holds stays unused
//! until the lock is released. No thread can get a value that is being dropped; a later `get` does not find it.

use std::collections::HashMap;
use std::sync::Arc;

/// The properties that a shelf needs of its values.
pub trait Kept {
    /// The memory that the value takes now, in bytes.
    fn bytes(&self) -> u64;

    /// True if the value can be read or made again. Other values stay until they are removed.
    fn may_go(&self) -> bool;
}

/// The memory of all values of a shelf.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The memory of values in use.
    pub used_bytes: u64,
    /// The memory of unused values that may go.
    pub unused_bytes: u64,
    /// The memory of unused values that must stay.
    pub bound_bytes: u64,
}

#[derive(Debug)]
struct Slot<V> {
    value: Arc<V>,
    /// When the value was first seen unused. `None` while it is in use.
    unused_since: Option<u64>,
    /// The value will not be wanted soon: it goes as soon as it is unused, whatever the budget.
    aside: bool,
}

/// Values by number.
#[derive(Debug)]
pub struct Shelf<V> {
    slots: HashMap<u64, Slot<V>>,
    clock: u64,
}

impl<V> Default for Shelf<V> {
    fn default() -> Shelf<V> {
        Shelf {
            slots: HashMap::new(),
            clock: 0,
        }
    }
}

impl<V: Kept> Shelf<V> {
    pub fn put(&mut self, number: u64, value: Arc<V>) {
        let slot = Slot {
            value,
            unused_since: None,
            aside: false,
        };
        let before = self.slots.insert(number, slot);
        assert!(before.is_none(), "a number stands for one value");
    }

    /// The value, unless it was dropped.
    pub fn get(&mut self, number: u64) -> Option<Arc<V>> {
        let slot = self.slots.get_mut(&number)?;
        slot.unused_since = None;
        slot.aside = false;
        Some(slot.value.clone())
    }

    /// Makes a value go as soon as it is unused, unless it is got again before that.
    pub fn set_aside(&mut self, number: u64) {
        if let Some(slot) = self.slots.get_mut(&number) {
            slot.aside = true;
        }
    }

    pub fn number_of(&self, value: &Arc<V>) -> Option<u64> {
        let mut slots = self.slots.iter();
        slots
            .find(|(_, slot)| Arc::ptr_eq(&slot.value, value))
            .map(|(number, _)| *number)
    }

    /// Looks at a value without using it.
    pub fn peek(&self, number: u64) -> Option<&V> {
        self.slots.get(&number).map(|slot| &*slot.value)
    }

    /// Takes a value off the shelf, even if it is in use.
    pub fn remove(&mut self, number: u64) -> Option<Arc<V>> {
        self.slots.remove(&number).map(|slot| slot.value)
    }

    /// Takes unused values beyond the budget off the shelf. The caller drops them after it has released the lock: freeing
    /// memory takes time.
    pub fn take_surplus(&mut self, budget_bytes: u64) -> Vec<(u64, Arc<V>)> {
        self.clock += 1;
        let now = self.clock;
        let mut unused: Vec<(u64, u64, u64)> = Vec::new();
        let mut aside: Vec<u64> = Vec::new();
        for (&number, slot) in &mut self.slots {
            if !slot.is_unused() {
                slot.unused_since = None;
            } else if !slot.value.may_go() {
                continue;
            } else if slot.aside {
                aside.push(number);
            } else {
                let since = *slot.unused_since.get_or_insert(now);
                unused.push((since, number, slot.value.bytes()));
            }
        }
        // The newest first. Of values of one moment, the higher number is the newer.
        unused.sort_unstable_by(|a, b| b.cmp(a));
        let mut kept_bytes = 0;
        let surplus = unused.into_iter().skip_while(|(_, _, bytes)| {
            kept_bytes += bytes;
            kept_bytes <= budget_bytes
        });
        aside.extend(surplus.map(|(_, number, _)| number));
        self.take(&aside)
    }

    /// Takes these values off the shelf, except those that are in use or must stay.
    pub fn take_unused(&mut self, numbers: &[u64]) -> Vec<(u64, Arc<V>)> {
        let free = |number: &&u64| {
            let slot = self.slots.get(number);
            slot.is_some_and(|slot| slot.is_unused() && slot.value.may_go())
        };
        let free: Vec<u64> = numbers.iter().filter(free).copied().collect();
        self.take(&free)
    }

    fn take(&mut self, numbers: &[u64]) -> Vec<(u64, Arc<V>)> {
        let take = |&number: &u64| Some((number, self.remove(number)?));
        numbers.iter().filter_map(take).collect()
    }

    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for slot in self.slots.values() {
            let bytes = slot.value.bytes();
            match (slot.is_unused(), slot.value.may_go()) {
                (false, _) => usage.used_bytes += bytes,
                (true, true) => usage.unused_bytes += bytes,
                (true, false) => usage.bound_bytes += bytes,
            }
        }
        usage
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }
}

impl<V> Slot<V> {
    fn is_unused(&self) -> bool {
        Arc::strong_count(&self.value) == 1
    }
}

#[cfg(test)]
mod tests;
