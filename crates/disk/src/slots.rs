//! The blocks of a layer's file that are in use.
//!
//! A slot that was freed still has its space on the host. It is the first to be used again. A thread that nobody waits for frees the
//! space of the others: it reserves them, makes holes, and then frees them for good.

use std::collections::BTreeMap;

/// Ranges of slots that do not touch: the first slot and the number of each.
#[derive(Debug, Default)]
struct Ranges {
    ranges: BTreeMap<u64, u64>,
    total: u64,
}

impl Ranges {
    /// Removes up to `want` slots of the first range.
    fn pop(&mut self, want: u64) -> Option<(u64, u64)> {
        let (slot, count) = self.ranges.pop_first()?;
        let got = count.min(want);
        if got < count {
            self.ranges.insert(slot + got, count - got);
        }
        self.total -= got;
        Some((slot, got))
    }

    /// Adds slots that are in none of the ranges.
    fn insert(&mut self, mut slot: u64, mut count: u64) {
        self.total += count;
        if let Some((before, its_count)) = self.ranges.range(..slot).next_back().map(|(a, b)| (*a, *b))
            && before + its_count == slot
        {
            self.ranges.remove(&before);
            (slot, count) = (before, its_count + count);
        }
        if let Some(its_count) = self.ranges.remove(&(slot + count)) {
            count += its_count;
        }
        self.ranges.insert(slot, count);
    }
}

/// The slots of a layer that is being written.
#[derive(Debug, Default)]
pub struct Slots {
    /// The end of all slots that were ever used.
    end: u64,
    /// Slots that were freed, and may have space.
    freed: Ranges,
    /// Slots whose space is being freed.
    reserved: u64,
    /// Slots that have no space.
    empty: Ranges,
}

impl Slots {
    /// The slots of a layer that uses these, in any order.
    pub fn with_used(mut used: Vec<(u64, u64)>) -> Slots {
        used.sort_unstable();
        let mut slots = Slots::default();
        for (slot, count) in used {
            if slot > slots.end {
                slots.freed.insert(slots.end, slot - slots.end);
            }
            slots.end = slots.end.max(slot + count);
        }
        slots
    }

    /// Takes up to `want` consecutive slots. Returns the first and their number, which is at least one.
    pub fn take(&mut self, want: u64) -> (u64, u64) {
        let free = self.freed.pop(want).or_else(|| self.empty.pop(want));
        free.unwrap_or_else(|| {
            let slot = self.end;
            self.end += want;
            (slot, want)
        })
    }

    /// Frees slots that were taken.
    pub fn give_back(&mut self, slot: u64, count: u64) {
        self.freed.insert(slot, count);
    }

    /// Reserves slots that were freed, until [`Slots::give_back_empty`].
    pub fn reserve_freed(&mut self) -> Option<(u64, u64)> {
        let (slot, count) = self.freed.pop(u64::MAX)?;
        self.reserved += count;
        Some((slot, count))
    }

    /// Frees slots that were reserved, and have no space any more.
    pub fn give_back_empty(&mut self, slot: u64, count: u64) {
        self.reserved -= count;
        self.empty.insert(slot, count);
    }

    /// How many slots are in use.
    pub fn in_use(&self) -> u64 {
        self.end - self.freed.total - self.reserved - self.empty.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Debug, Clone)]
    enum Step {
        Take(u64),
        GiveBack(usize, u64),
        Reserve,
        GiveBackEmpty,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (1..20u64).prop_map(Step::Take),
            3 => (any::<usize>(), 1..20u64).prop_map(|(choice, count)| Step::GiveBack(choice, count)),
            1 => Just(Step::Reserve),
            1 => Just(Step::GiveBackEmpty),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn a_slot_is_never_given_to_two_and_all_are_used_again(steps in steps()) {
            let (mut slots, mut used, mut reserved) = (Slots::default(), BTreeSet::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Take(want) => {
                        let (slot, got) = slots.take(want);
                        prop_assert!((1..=want).contains(&got));
                        prop_assert!((slot..slot + got).all(|slot| used.insert(slot)));
                    }
                    Step::GiveBack(choice, want) if !used.is_empty() => {
                        let slot: u64 = *used.iter().nth(choice % used.len()).expect("one of them");
                        let count = (slot..slot + want).take_while(|slot| used.remove(slot)).count();
                        slots.give_back(slot, count as u64);
                    }
                    Step::Reserve => reserved.extend(slots.reserve_freed()),
                    Step::GiveBackEmpty => {
                        let given = reserved.pop();
                        given.into_iter().for_each(|(slot, count)| slots.give_back_empty(slot, count));
                    }
                    Step::GiveBack(..) => {}
                }
                prop_assert!(reserved.iter().all(|(slot, count)| used.range(*slot..slot + count).next().is_none()));
                prop_assert_eq!(slots.in_use(), used.len() as u64);
            }
            reserved.into_iter().for_each(|(slot, count)| slots.give_back_empty(slot, count));
            let mut again = Slots::with_used(used.iter().rev().map(|slot| (*slot, 1)).collect());
            for mut slots in [slots, std::mem::take(&mut again)] {
                let (end, mut all) = (slots.end, used.clone());
                while all.len() < end as usize {
                    let (slot, got) = slots.take(1);
                    prop_assert!(slot < end && got == 1 && all.insert(slot), "a free slot is used before a new one");
                }
            }
        }
    }
}
