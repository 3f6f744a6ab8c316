use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Blocks of the disks in these tests: some around each boundary between nodes, and some far away.
const CORNERS: [u64; 5] = [0, LEAF_BLOCKS, 7 * LEAF_BLOCKS, BRANCH_BLOCKS, BLOCKS_MAX - 700];

#[derive(Debug, Clone)]
enum Step {
    Set {
        block: u64,
        blocks: u64,
        place: Place,
    },
    Clear {
        block: u64,
        blocks: u64,
    },
    /// Continues with a clone, and keeps the map as it is.
    Fork,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let block = (0..CORNERS.len(), 0..600u64).prop_map(|(corner, more)| CORNERS[corner] + more);
    let place = (1..4u32, 0..2000u64).prop_map(|(layer, slot)| Place { layer, slot });
    let length = prop_oneof![3 => 1..40u64, 1 => 1..100u64, 1 => Just(LEAF_BLOCKS)];
    let clears = prop_oneof![3 => 1..40u64, 1 => Just(LEAF_BLOCKS), 1 => Just(2 * BRANCH_BLOCKS)];
    let step = prop_oneof![
        4 => (block.clone(), length, place).prop_map(|(block, blocks, place)| Step::Set {
            block,
            blocks: blocks.min(BLOCKS_MAX - block),
            place
        }),
        2 => (block, clears).prop_map(|(block, blocks)| Step::Clear {
            block,
            blocks: blocks.min(BLOCKS_MAX - block)
        }),
        1 => Just(Step::Fork),
    ];
    proptest::collection::vec(step, 0..40)
}

type Naive = BTreeMap<u64, Place>;

fn naive_of(map: &Map) -> Naive {
    let mut all = Naive::new();
    map.extents(|extent| {
        for index in 0..extent.blocks {
            let place = Place {
                slot: extent.place.slot + index,
                ..extent.place
            };
            assert!(all.insert(extent.block + index, place).is_none(), "a block comes twice");
        }
    });
    all
}

proptest! {
    #[test]
    fn a_map_is_what_a_list_of_blocks_would_be_and_its_clones_never_change(steps in steps()) {
        let (mut map, mut naive) = (Map::default(), Naive::new());
        let mut kept = Vec::new();
        for step in steps {
            match step {
                Step::Set { block, blocks, place } => {
                    map.set(Extent { block, blocks, place });
                    let all = (0..blocks).map(|index| (block + index, Place { slot: place.slot + index, ..place }));
                    naive.extend(all);
                }
                Step::Clear { block, blocks } => {
                    map.clear(block..block + blocks);
                    naive.retain(|at, _| !(block..block + blocks).contains(at));
                }
                Step::Fork => kept.push((map.clone(), naive.clone())),
            }
        }
        kept.push((map, naive));
        for (map, naive) in kept {
            prop_assert_eq!(naive_of(&map), naive);
        }
    }
}

#[test]
fn a_run_ends_at_its_limit_at_another_layer_and_at_a_gap() {
    let mut map = Map::default();
    let place = Place { layer: 2, slot: 100 };
    map.set(Extent {
        block: 500,
        blocks: 40,
        place,
    });
    let of = |blocks, place| Run { blocks, place };
    assert_eq!(map.run(0, 1000), of(500, None));
    assert_eq!(map.run(500, 1000), of(40, Some(place)));
    assert_eq!(map.run(500, 13), of(13, Some(place)));
    map.set(Extent {
        block: 520,
        blocks: 1,
        place: Place { layer: 3, slot: 120 },
    });
    assert_eq!(map.run(500, 1000), of(20, Some(place)));
    assert_eq!(map.run(540, BLOCKS_MAX - 540).place, None);
}

#[test]
fn a_clone_shares_all_nodes_that_were_not_written_since() {
    let mut map = Map::default();
    for block in [0, BRANCH_BLOCKS, 2 * BRANCH_BLOCKS] {
        map.set(Extent {
            block,
            blocks: 1,
            place: Place { layer: 2, slot: 0 },
        });
    }
    let before = map.clone();
    map.set(Extent {
        block: 1,
        blocks: 1,
        place: Place { layer: 3, slot: 0 },
    });
    let shared = |branch: usize| {
        let (one, other) = (map.root[branch].as_ref(), before.root[branch].as_ref());
        Arc::ptr_eq(one.expect("a node"), other.expect("a node"))
    };
    assert_eq!([shared(0), shared(1), shared(2)], [false, true, true]);
}
