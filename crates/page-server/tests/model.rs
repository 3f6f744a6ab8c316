//! The parts without a kernel, held against simpler ones: the set of pages that were given back, the record, the cache.

mod common;

use forkd_linux_sys::PAGE_SIZE;
use forkd_page_server::{Cached, Content, Record, RecordError, Removed, Run, SourceError, Template, first_of_a_kind};
use forkd_vmm_stand_in::pattern;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

const PAGES: u64 = 300;

proptest! {
    #[test]
    fn what_was_given_back_is_remembered_exactly(
        ranges in prop::collection::vec((0u64..PAGES + 20, 0u64..130), 0..12),
        asked in prop::collection::vec((0u64..PAGES, 0u64..200), 1..20)
    ) {
        let removed = Removed::none_of(PAGES);
        let mut model = BTreeSet::new();
        for (start, len) in ranges {
            removed.insert(start..start + len);
            model.extend(start..(start + len).min(PAGES));
        }
        for (page, limit) in asked {
            let is_in = model.contains(&page);
            let end = (page + limit).min(PAGES);
            let same = (page..end).take_while(|other| model.contains(other) == is_in).count() as u64;
            prop_assert_eq!(removed.run(page, limit), (is_in, same), "page {} limit {}", page, limit);
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_or_not_at_all(
        runs in prop::collection::vec((0u64..10_000, 1u64..600), 0..50), damage in any::<prop::sample::Index>(), bit in 0..8
    ) {
        let mut record = Record::default();
        runs.iter().for_each(|&(page, pages)| record.note(page, pages));
        let noted: u64 = record.runs().iter().map(|run| u64::from(run.pages)).sum();
        prop_assert_eq!(noted, runs.iter().map(|run| run.1).sum::<u64>());
        let bytes = record.encode("template");
        prop_assert_eq!(&Record::decode(&bytes, "template", 20_000).expect("undamaged"), &record);
        prop_assert!(matches!(Record::decode(&bytes, "another", 20_000), Err(RecordError::OtherTemplate(_))));
        let mut damaged = bytes.clone();
        damaged[damage.index(bytes.len())] ^= 1u8 << bit;
        prop_assert!(Record::decode(&damaged, "template", 20_000).is_err());
        prop_assert!(Record::decode(&bytes[..damage.index(bytes.len())], "template", 20_000).is_err());
    }

    #[test]
    fn any_bytes_are_a_record_or_not(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Record::decode(&bytes, "template", 1000).is_err());
    }

    #[test]
    fn pages_are_cut_where_zeros_begin_and_end(kinds in prop::collection::vec(any::<bool>(), 1..12)) {
        let bytes: Vec<u8> = kinds.iter().flat_map(|zero| vec![u8::from(!zero); PAGE_SIZE]).collect();
        let run = first_of_a_kind(&bytes);
        let same = kinds.iter().take_while(|kind| **kind == kinds[0]).count();
        prop_assert_eq!(run.pages, same as u64);
        prop_assert_eq!(run.content == Content::Zeros, kinds[0]);
    }
}

#[test]
fn a_record_beyond_the_template_is_damaged() {
    let mut record = Record::default();
    record.note(90, 20);
    let bytes = record.encode("template");
    assert!(matches!(
        Record::decode(&bytes, "template", 100),
        Err(RecordError::Damaged)
    ));
}

/// Counts how often each of its blocks is read, and takes a moment for it.
struct Slow {
    reads: Vec<AtomicU64>,
}

impl Template for Slow {
    fn identity(&self) -> String {
        "slow".into()
    }

    fn pages(&self) -> u64 {
        self.reads.len() as u64 * 64
    }

    fn run(&self, page: u64, limit: u64) -> Run<'_> {
        Run {
            pages: limit.min(self.pages() - page),
            content: Content::Stored,
        }
    }

    fn read(&self, page: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let before = self.reads[page as usize / 64].fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(std::time::Duration::from_millis(2));
        if page / 64 == 7 && before == 0 {
            return Err(SourceError::NotYet("it is on its way".into()));
        }
        for (index, out) in buffer.chunks_exact_mut(PAGE_SIZE).enumerate() {
            out.copy_from_slice(&pattern::bytes(page + index as u64));
        }
        Ok(())
    }
}

fn read(cached: &Cached<Slow>, page: u64, pages: usize) -> Result<(), SourceError> {
    let mut buffer = vec![0; pages * PAGE_SIZE];
    cached.read(page, &mut buffer)?;
    let wanted: Vec<u8> = (page..page + pages as u64).flat_map(pattern::bytes).collect();
    assert!(buffer == wanted, "pages {page} and on");
    Ok(())
}

fn slow(blocks: usize, kept: u64) -> (Cached<Slow>, impl Fn(&Cached<Slow>) -> u64) {
    let reads = (0..blocks).map(|_| AtomicU64::new(0)).collect();
    let cached = Cached::new(Slow { reads }, kept * 64 * PAGE_SIZE as u64);
    (cached, |cached: &Cached<Slow>| cached.hits_and_misses().1)
}

#[test]
fn a_block_is_fetched_once_however_many_ask_at_once() {
    let (cached, misses) = slow(8, 8);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let cached = &cached;
            scope.spawn(move || read(cached, 60 + thread, 10).expect("it can be read"));
        }
    });
    assert_eq!(misses(&cached), 2, "the pages are in two blocks");
}

#[test]
fn a_fetch_that_failed_is_tried_again_by_who_comes_later() {
    let (cached, misses) = slow(8, 8);
    let error = read(&cached, 7 * 64, 1).expect_err("not yet");
    assert_eq!(error, SourceError::NotYet("it is on its way".into()));
    read(&cached, 7 * 64, 1).expect("now it can");
    assert_eq!(misses(&cached), 2);
}

#[test]
fn reading_everything_once_does_not_drive_out_what_is_used_again() {
    let (cached, misses) = slow(64, 10);
    let hot = [3u64, 5, 9];
    for _ in 0..2 {
        hot.iter()
            .for_each(|block| read(&cached, block * 64, 1).expect("it can be read"));
    }
    for block in (0..64).filter(|block| !hot.contains(block) && *block != 7) {
        read(&cached, block * 64, 64).expect("it can be read");
        assert!(cached.bytes() <= 10 * 64 * PAGE_SIZE as u64, "bounded");
    }
    let before = misses(&cached);
    hot.iter()
        .for_each(|block| read(&cached, block * 64, 1).expect("it can be read"));
    assert_eq!(misses(&cached), before, "they are still there");
}
