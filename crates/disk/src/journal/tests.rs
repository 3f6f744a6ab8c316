use super::*;
use crate::testing::Scratch;
use proptest::prelude::*;

const HEADER: Header = Header {
    layer: 7,
    disk: 3,
    epoch: 5,
    blocks: 1 << 20,
};

fn record(block: u64, blocks: u32, slot: Option<u64>) -> Record {
    Record { block, blocks, slot }
}

fn begin(path: &Path) -> Journal {
    let file = Journal::prepare(path).expect("a file");
    Journal::begin(path.to_path_buf(), file, HEADER).expect("begun")
}

fn read(path: &Path) -> (Journal, Vec<Extent>) {
    let (journal, map) = Journal::read(path, 2).expect("read").expect("begun");
    let mut extents = Vec::new();
    map.extents(|extent| extents.push(extent));
    (journal, extents)
}

fn extent(block: u64, blocks: u64, layer: u32, slot: u64) -> Extent {
    Extent {
        block,
        blocks,
        place: Place { layer, slot },
    }
}

#[test]
fn a_later_record_overrides_an_earlier_one_and_zeros_are_kept() {
    let scratch = Scratch::new();
    let path = scratch.path("1.map");
    let mut journal = begin(&path);
    journal
        .append(&[record(10, 20, Some(0)), record(15, 2, Some(30))])
        .expect("appended");
    journal.append(&[record(12, 1, None)]).expect("appended");
    let (again, extents) = read(&path);
    assert_eq!(again.header(), HEADER);
    assert_eq!(
        extents,
        [
            extent(10, 2, 2, 0),
            extent(12, 1, ZEROS_LAYER, 12),
            extent(13, 2, 2, 3),
            extent(15, 2, 2, 30),
            extent(17, 13, 2, 7),
        ]
    );
}

#[test]
fn a_file_that_was_prepared_and_not_begun_is_no_journal() {
    let scratch = Scratch::new();
    let path = scratch.path("1.map");
    Journal::prepare(&path).expect("a file");
    assert!(Journal::read(&path, 2).expect("read").is_none());
    Journal::prepare(&path).expect_err("it exists");
}

#[test]
fn a_journal_goes_on_after_its_last_whole_record() {
    let scratch = Scratch::new();
    let path = scratch.path("1.map");
    begin(&path)
        .append(&[record(1, 1, Some(0)), record(2, 1, Some(5))])
        .expect("appended");
    let length = std::fs::metadata(&path).expect("metadata").len();
    for cut in 1..=RECORD_BYTES as u64 {
        std::fs::copy(&path, scratch.path("2.map")).expect("copied");
        let file = File::options().write(true).open(scratch.path("2.map")).expect("opened");
        file.set_len(length - cut).expect("cut");
        let (mut journal, extents) = read(&scratch.path("2.map"));
        assert_eq!(extents, [extent(1, 1, 2, 0)]);
        journal.append(&[record(3, 1, Some(9))]).expect("appended");
        assert_eq!(read(&scratch.path("2.map")).1, [extent(1, 1, 2, 0), extent(3, 1, 2, 9)]);
    }
}

#[test]
fn a_long_journal_is_replaced_by_a_short_one_that_says_the_same() {
    let scratch = Scratch::new();
    let path = scratch.path("1.map");
    let mut journal = begin(&path);
    for round in 0..100 {
        journal
            .append(&[record(4, 4, Some(round)), record(100, 1, None)])
            .expect("appended");
        journal.rewrite_if_long(50).expect("rewritten");
    }
    assert!(journal.records < 50);
    assert_eq!(
        std::fs::metadata(&path).expect("metadata").len(),
        offset_of(journal.records)
    );
    assert_eq!(read(&path).1, [extent(4, 4, 2, 99), extent(100, 1, ZEROS_LAYER, 100)]);
}

proptest! {
    /// Whatever is in the file: reading it neither fails nor panics, and says nothing of blocks that the disk has not.
    #[test]
    fn a_damaged_journal_ends_where_it_is_damaged(at in 0..(HEADER_BYTES + 3 * RECORD_BYTES), bit in 0..8u32) {
        let scratch = Scratch::new();
        let path = scratch.path("1.map");
        let whole = [record(1, 1, Some(0)), record(2, 1, Some(5)), record(3, 1, Some(7))];
        begin(&path).append(&whole).expect("appended");
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[at] ^= 1 << bit;
        std::fs::write(&path, &bytes).expect("written");
        match Journal::read(&path, 2).expect("read") {
            None => prop_assert!(at < HEADER_BYTES),
            Some((journal, _)) => prop_assert_eq!(journal.records, ((at - HEADER_BYTES) / RECORD_BYTES) as u64),
        }
    }
}
