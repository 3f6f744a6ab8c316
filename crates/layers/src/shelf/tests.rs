//! A shelf held against a simple model, with any sequence of steps.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, Default)]
struct Value {
    bytes: u64,
    stored: AtomicBool,
}

impl Kept for Value {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn may_go(&self) -> bool {
        self.stored.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u64),
    Store(usize),
    Get(usize),
    Drop(usize),
    Remove(usize),
    SetAside(usize),
    TakeUnused(usize),
    TakeSurplus(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u64..20).prop_map(Step::Put),
        (0usize..64).prop_map(Step::Store),
        (0usize..64).prop_map(Step::Get),
        (0usize..64).prop_map(Step::Drop),
        (0usize..64).prop_map(Step::Remove),
        (0usize..64).prop_map(Step::SetAside),
        (0usize..64).prop_map(Step::TakeUnused),
        (0u64..60).prop_map(Step::TakeSurplus),
    ]
}

/// The model's knowledge of a value on the shelf.
#[derive(Debug)]
struct Known {
    bytes: u64,
    stored: bool,
    /// When it was first seen unused.
    since: Option<u64>,
    aside: bool,
}

/// The model: values on the shelf, and how often each is held.
#[derive(Debug, Default)]
struct Model {
    on_shelf: BTreeMap<u64, Known>,
    looks: u64,
}

impl Model {
    /// The numbers that are expected to go: the longest unused, one by one, until the rest fits.
    fn surplus(&mut self, holders: &[(u64, Arc<Value>)], budget: u64) -> Vec<u64> {
        self.looks += 1;
        for (number, known) in &mut self.on_shelf {
            let held = holders.iter().any(|(held, _)| held == number);
            known.since = if held || !known.stored {
                None
            } else {
                known.since.or(Some(self.looks))
            };
        }
        let mut unused: Vec<(u64, u64)> = self
            .on_shelf
            .iter()
            .filter_map(|(&number, known)| Some((known.since?, number)))
            .collect();
        unused.sort_unstable();
        let mut gone: Vec<u64> = Vec::new();
        self.on_shelf.retain(|&number, known| {
            let goes = known.aside && known.since.is_some();
            if goes {
                gone.push(number);
            }
            !goes
        });
        unused.retain(|(_, number)| !gone.contains(number));
        for (_, number) in unused {
            let left: u64 = self
                .on_shelf
                .values()
                .filter(|known| known.since.is_some())
                .map(|known| known.bytes)
                .sum();
            if left <= budget {
                break;
            }
            self.on_shelf.remove(&number);
            gone.push(number);
        }
        gone
    }
}

proptest! {
    #[test]
    fn the_longest_unused_values_go_and_no_value_that_is_held_or_not_stored(steps in prop::collection::vec(step(), 1..120)) {
        let mut shelf = Shelf::default();
        let mut model = Model::default();
        let mut holders: Vec<(u64, Arc<Value>)> = Vec::new();
        let mut next = 0;
        let pick = |model: &Model, index: usize| {
            let count = model.on_shelf.len();
            (count > 0).then(|| *model.on_shelf.keys().nth(index % count).expect("within the count"))
        };
        for step in steps {
            match step {
                Step::Put(bytes) => {
                    let value = Arc::new(Value { bytes, ..Value::default() });
                    shelf.put(next, value.clone());
                    holders.push((next, value));
                    model.on_shelf.insert(next, Known { bytes, stored: false, since: None, aside: false });
                    next += 1;
                }
                Step::Store(index) => {
                    if let Some(number) = pick(&model, index) {
                        shelf.peek(number).expect("it is on the shelf").stored.store(true, Ordering::Relaxed);
                        model.on_shelf.get_mut(&number).expect("as above").stored = true;
                    }
                }
                Step::Get(index) => {
                    if let Some(number) = pick(&model, index) {
                        holders.push((number, shelf.get(number).expect("it is on the shelf")));
                        let known = model.on_shelf.get_mut(&number).expect("as above");
                        (known.since, known.aside) = (None, false);
                    }
                }
                Step::Drop(index) => {
                    if !holders.is_empty() {
                        holders.swap_remove(index % holders.len());
                    }
                }
                Step::Remove(index) => {
                    if let Some(number) = pick(&model, index) {
                        prop_assert!(shelf.remove(number).is_some());
                        model.on_shelf.remove(&number);
                    }
                }
                Step::SetAside(index) => {
                    if let Some(number) = pick(&model, index) {
                        shelf.set_aside(number);
                        model.on_shelf.get_mut(&number).expect("as above").aside = true;
                    }
                }
                Step::TakeUnused(index) => {
                    if let Some(number) = pick(&model, index) {
                        let free = model.on_shelf[&number].stored && !holders.iter().any(|(held, _)| *held == number);
                        prop_assert_eq!(shelf.take_unused(&[number, u64::MAX]).len(), usize::from(free));
                        if free {
                            model.on_shelf.remove(&number);
                        }
                    }
                }
                Step::TakeSurplus(budget) => {
                    let mut expected = model.surplus(&holders, budget);
                    let mut gone: Vec<u64> = shelf.take_surplus(budget).into_iter().map(|(number, _)| number).collect();
                    gone.sort_unstable();
                    expected.sort_unstable();
                    prop_assert_eq!(gone, expected);
                    prop_assert!(shelf.usage().unused_bytes <= budget);
                }
            }
            for (&number, known) in &model.on_shelf {
                prop_assert_eq!(shelf.peek(number).map(Kept::bytes), Some(known.bytes));
            }
            prop_assert_eq!(shelf.len(), model.on_shelf.len());
        }
    }
}
