//! Tests the memory that is accepted as a VM's, and its pages that count, with mappings of this process instead of a VMM's.

use super::*;
use forkd_layers::{Extent, LayerBuilder};
use forkd_linux_sys::memfd::Mapping;

const PAGES: u64 = 48;
/// Pages of the first of two regions.
const LOWER: u64 = 20;
const SIZE: u64 = PAGE_SIZE as u64;

/// A stack whose base has the even pages from 4 on.
fn stack() -> Arc<Stack> {
    let empty = Stack::new(PAGES * SIZE, Vec::new()).expect("a stack");
    let builder = LayerBuilder::new(Arc::new(empty)).expect("a builder");
    for page in 0..PAGES {
        let filled = if page >= 4 && page % 2 == 0 { page as u8 } else { 0 };
        let one = Extent {
            page,
            slot: page,
            pages: 1,
        };
        builder.put(one, &[filled; PAGE_SIZE]).expect("put");
    }
    let whole = Extent {
        page: 0,
        slot: 0,
        pages: PAGES,
    };
    let base = builder.seal([whole].into_iter()).expect("seal");
    Arc::new(Stack::new(PAGES * SIZE, vec![Arc::new(base)]).expect("a stack"))
}

fn place(mapping: &Mapping, page: u64) -> LayoutRegion {
    let bytes = mapping.len() as u64;
    let start = mapping.target(0, mapping.len()) as u64;
    LayoutRegion::new(start, bytes, page * SIZE, SIZE, PAGES * SIZE).expect("a region")
}

fn part(file: &File, page: u64, pages: u64, shared: bool) -> Mapping {
    Mapping::part(file, page * SIZE, (pages * SIZE) as usize, shared).expect("map")
}

fn source(places: Vec<LayoutRegion>) -> Result<Source> {
    let layout = Layout::new(places).expect("a layout");
    source_of(std::process::id() as i32, &layout, &stack())
}

/// The pages of a source that count.
fn counted(source: &Source) -> Vec<u64> {
    let ranges = source.own_pages().expect("list");
    ranges
        .iter()
        .flat_map(|range| range.start / SIZE..range.end / SIZE)
        .collect()
}

fn refusal(places: Vec<LayoutRegion>) -> String {
    source(places).expect_err("refused").message
}

#[test]
fn what_is_lent_has_the_layers_pages_and_what_counts_of_it_is_what_is_there_or_was() {
    let file = lend(&stack()).expect("lend");
    let (lower, upper) = (part(&file, 0, LOWER, true), part(&file, LOWER, PAGES - LOWER, true));
    for page in 0..PAGES {
        let (mapping, at) = if page < LOWER {
            (&lower, page)
        } else {
            (&upper, page - LOWER)
        };
        let wanted = if page >= 4 && page % 2 == 0 { page as u8 } else { 0 };
        assert_eq!(mapping.bytes((at * SIZE) as usize, 1)[0], wanted, "page {page}");
    }
    // A file without reads so far: reading holes fills them.
    let file = lend(&stack()).expect("lend");
    let (lower, upper) = (part(&file, 0, LOWER, true), part(&file, LOWER, PAGES - LOWER, true));
    let source = source(vec![place(&upper, LOWER), place(&lower, 0)]).expect("a source");
    let even: Vec<u64> = (4..PAGES).filter(|page| page % 2 == 0).collect();
    assert_eq!(counted(&source), even);
    // Write where there was a hole, and free where there was data.
    upper.write(SIZE as usize, &[1]);
    memfd::punch_hole(&file, 6 * SIZE, SIZE).expect("punch");
    let mut wanted = [even, vec![LOWER + 1]].concat();
    wanted.sort_unstable();
    assert_eq!(counted(&source), wanted);
}

#[test]
fn of_private_memory_the_private_pages_count() {
    let lower = Mapping::anonymous((LOWER * SIZE) as usize).expect("map");
    let upper = Mapping::anonymous(((PAGES - LOWER) * SIZE) as usize).expect("map");
    lower.write(3 * SIZE as usize, &[1]);
    upper.write(0, &[1]);
    let source = source(vec![place(&lower, 0), place(&upper, LOWER)]).expect("a source");
    assert_eq!(counted(&source), [3, LOWER]);
}

#[test]
fn memory_that_is_not_what_it_should_be_is_refused() {
    let file = lend(&stack()).expect("lend");
    let other = lend(&stack()).expect("lend");
    let lower = part(&file, 0, LOWER, true);
    assert!(refusal(vec![place(&lower, 0)]).contains("bytes instead of"));
    // The second region maps another part of the file than it claims.
    let shifted = part(&file, LOWER - 1, PAGES - LOWER, true);
    assert!(refusal(vec![place(&lower, 0), place(&shifted, LOWER)]).contains("at its offset"));
    // The second region is of another file, or private while the other is shared.
    let of_other = part(&other, LOWER, PAGES - LOWER, true);
    assert!(refusal(vec![place(&lower, 0), place(&of_other, LOWER)]).contains("not of one file"));
    let private = part(&file, LOWER, PAGES - LOWER, false);
    assert!(refusal(vec![place(&lower, 0), place(&private, LOWER)]).contains("not of one file"));
    // Nothing is ever mapped at this address.
    let upper_bytes = (PAGES - LOWER) * SIZE;
    let nowhere = LayoutRegion::new(SIZE, upper_bytes, LOWER * SIZE, SIZE, PAGES * SIZE).expect("a region");
    assert!(refusal(vec![place(&lower, 0), nowhere]).contains("is not mapped"));
}
