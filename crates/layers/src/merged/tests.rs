//! Views held against the stacks that they are made of, page by page.

use super::*;
use crate::shelf::Kept;
use crate::stack::Piece;
use crate::stack::tests::{PAGES, layer, random, random_runs};
use std::sync::Arc;

/// The first byte of every page, as a process that maps the plan sees it.
fn mapped(stack: &Stack) -> Vec<u8> {
    let mut seen = vec![0; PAGES as usize];
    for Piece { layer, extent } in stack.plan() {
        for page in 0..extent.pages {
            let content = stack.layers[layer].content(extent.slot + page, 1);
            assert!(content.iter().all(|byte| *byte == content[0]), "a page of one byte");
            seen[(extent.page + page) as usize] = content[0];
        }
    }
    seen
}

fn seen_through(stack: &Stack, depth: usize, view: Layer) -> Stack {
    let layers = [stack.layers[0].clone(), Arc::new(view)]
        .into_iter()
        .chain(stack.layers[depth..].iter().cloned());
    Stack::new(stack.length, layers.collect()).expect("a view fits over its base")
}

#[test]
fn a_view_has_the_content_of_its_stack_in_each_page() {
    for round in 0..400u64 {
        let mut seed = round;
        let depth = 1 + random(&mut seed, 6);
        let layers: Vec<_> = (0..=depth)
            .map(|at| layer(at == 0, at as u8 + 1, &random_runs(&mut seed)))
            .collect();
        let stack = Stack::new(PAGES * PAGE_SIZE as u64, layers.clone()).expect("stack");
        let extents_max = 1 + random(&mut seed, 12) as usize;
        let outline = Outline::of(&stack, extents_max);
        assert!(outline.extents() <= extents_max, "seed {round}");
        let view = outline.make(&stack).expect("view");
        assert!(
            view.bytes() <= outline.pages * PAGE_SIZE as u64,
            "no more memory than was said, seed {round}"
        );
        let short = seen_through(&stack, stack.layers.len(), view);
        assert!(short.pieces() <= extents_max + 1, "seed {round}");
        assert_eq!(mapped(&short), mapped(&stack), "seed {round}");
        for page in 0..PAGES {
            assert_eq!(
                short.page(page).unwrap_or(&ZEROS),
                stack.page(page).unwrap_or(&ZEROS),
                "page {page}, seed {round}"
            );
        }
        // A view of the lower layers, with the others over it; and a view of that.
        let below = 1 + random(&mut seed, depth) as usize;
        let lower = Stack::new(stack.length, layers[..=below].to_vec()).expect("stack");
        let view = Outline::of(&lower, usize::MAX).make(&lower).expect("view");
        let partly = seen_through(&stack, below + 1, view);
        assert_eq!(mapped(&partly), mapped(&stack), "over a view, seed {round}");
        let view = Outline::of(&partly, 1).make(&partly).expect("view");
        let again = seen_through(&stack, stack.layers.len(), view);
        assert_eq!(mapped(&again), mapped(&stack), "a view of a view, seed {round}");
    }
}

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

#[test]
fn gaps_are_filled_while_they_are_small_and_few() {
    let size = PAGES * PAGE_SIZE as u64;
    // Ten pages, a gap of one, ten pages, a gap of twenty, four pages.
    let delta = layer(false, 2, &[(0, 10), (11, 10), (41, 4)]);
    let stack = Stack::new(size, vec![layer(true, 1, &[(0, PAGES)]), delta.clone()]).expect("stack");
    let outline = Outline::of(&stack, usize::MAX);
    assert_eq!(
        (outline.extents(), outline.pages),
        (2, 25),
        "the small gap is filled, the large one is not"
    );
    // Zeros are free.
    let stack = Stack::new(size, vec![layer(true, 1, &[(0, 5)]), delta]).expect("stack");
    let outline = Outline::of(&stack, usize::MAX);
    assert_eq!((outline.extents(), outline.pages), (1, 24));
    // Every second page: half as many pages at most are spent on gaps, unless there must be fewer extents.
    let every_second: Vec<_> = (0..PAGES / 2).map(|i| (i * 2, 1)).collect();
    let stack = Stack::new(
        size,
        vec![layer(true, 1, &[(0, PAGES)]), layer(false, 2, &every_second)],
    )
    .expect("stack");
    let outline = Outline::of(&stack, usize::MAX);
    assert_eq!((outline.extents(), outline.pages), (16, 48));
    let outline = Outline::of(&stack, 3);
    assert_eq!((outline.extents(), outline.pages), (3, 61));
}
