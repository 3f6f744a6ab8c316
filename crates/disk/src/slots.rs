//! The blocks of a layer's file that are in use.

use std::collections::BTreeMap;

/// The slots of a layer that is being written.
#[derive(Debug, Default)]
pub struct Slots {
    /// All slots from here on are free.
    end: u64,
    /// The free slots below `end`: first slot and number. Neighbours are merged.
    free: BTreeMap<u64, u64>,
    free_count: u64,
}

impl Slots {
    /// The slots of a layer that uses these, in any order.
    pub fn with_used(mut used: Vec<(u64, u64)>) -> Slots {
        used.sort_unstable();
        let mut slots = Slots::default();
        for (slot, count) in used {
            if slot > slots.end {
                slots.free.insert(slots.end, slot - slots.end);
                slots.free_count += slot - slots.end;
            }
            slots.end = slots.end.max(slot + count);
        }
        slots
    }

    /// Takes up to `want` consecutive slots. Returns the first and their number, which is at least one.
    pub fn take(&mut self, want: u64) -> (u64, u64) {
        let Some((slot, count)) = self.free.pop_first() else {
            let slot = self.end;
            self.end += want;
            return (slot, want);
        };
        let got = count.min(want);
        if got < count {
            self.free.insert(slot + got, count - got);
        }
        self.free_count -= got;
        (slot, got)
    }

    /// Frees slots that were taken.
    pub fn give_back(&mut self, mut slot: u64, mut count: u64) {
        self.free_count += count;
        if let Some((before, its_count)) = self.free.range(..slot).next_back().map(|(a, b)| (*a, *b))
            && before + its_count == slot
        {
            self.free.remove(&before);
            (slot, count) = (before, its_count + count);
        }
        if let Some(its_count) = self.free.remove(&(slot + count)) {
            count += its_count;
        }
        if slot + count == self.end {
            self.end = slot;
            self.free_count -= count;
        } else {
            self.free.insert(slot, count);
        }
    }

    /// The end of the slots in use: all from here on are free.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// How many slots are in use.
    pub fn in_use(&self) -> u64 {
        self.end - self.free_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_slot_is_never_given_to_two_and_all_are_used_again(steps in proptest::collection::vec((1..20u64, any::<u64>(), any::<bool>()), 0..200)) {
            let (mut slots, mut used) = (Slots::default(), BTreeSet::new());
            for (want, choice, takes) in steps {
                if takes || used.is_empty() {
                    let (slot, got) = slots.take(want);
                    prop_assert!((1..=want).contains(&got));
                    prop_assert!((slot..slot + got).all(|slot| used.insert(slot)));
                } else {
                    let slot: u64 = *used.iter().nth(choice as usize % used.len()).expect("one of them");
                    let count = (slot..slot + want).take_while(|slot| used.remove(slot)).count();
                    slots.give_back(slot, count as u64);
                }
                prop_assert_eq!(slots.in_use(), used.len() as u64);
                prop_assert_eq!(slots.end(), used.last().map_or(0, |last| last + 1));
            }
            let again = Slots::with_used(used.iter().rev().map(|slot| (*slot, 1)).collect());
            prop_assert_eq!((again.end(), &again.free, again.free_count), (slots.end(), &slots.free, slots.free_count));
        }
    }
}
