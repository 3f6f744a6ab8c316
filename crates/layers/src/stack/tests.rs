//! What is seen of a stack, held against a list of pages, with layers made at random.

use super::*;

pub const PAGES: u64 = 64;

/// A layer in which every page `p` of `runs` is filled with `fill`.
pub fn layer(is_base: bool, fill: u8, runs: &[(u64, u64)]) -> Arc<Layer> {
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
pub fn random(seed: &mut u64, below: u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % below
}

pub fn random_runs(seed: &mut u64) -> Vec<(u64, u64)> {
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
        let plan = stack.plan();
        let mut page = 0;
        while page < PAGES {
            let (pages, bytes) = stack.run(page, 1 + random(&mut seed, 9));
            let filled = bytes.map_or(vec![0; pages as usize], |bytes| {
                bytes.chunks(PAGE_SIZE).map(|bytes| bytes[0]).collect()
            });
            assert_eq!(
                filled,
                expected[page as usize..(page + pages) as usize],
                "run at {page}, seed {round}"
            );
            page += pages;
        }
        let mut mapped = [0u8; PAGES as usize];
        for piece in &plan {
            let Piece { layer, extent } = piece;
            for i in 0..extent.pages {
                mapped[(extent.page + i) as usize] = stack.layers[*layer].content(extent.slot + i, 1)[0];
            }
        }
        assert_eq!(mapped, expected, "the mapped view, seed {round}");
        // Each piece that is mapped over the base is seen, at its own place, and the base is not seen there.
        for piece in plan.iter().skip(1) {
            let Piece { layer, extent } = *piece;
            assert!(
                stack.shows(layer, extent.slot, extent.page, extent.pages),
                "{extent:?}, seed {round}"
            );
            assert!(
                !stack.shows(layer, extent.slot + 1, extent.page, extent.pages),
                "{extent:?}, seed {round}"
            );
            assert!(
                !stack.shows(0, extent.page, extent.page, extent.pages),
                "{extent:?}, seed {round}"
            );
        }
    }
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
        "another length"
    );
    assert!(Stack::new(size + 1, Vec::new()).is_err(), "half a page");
}
