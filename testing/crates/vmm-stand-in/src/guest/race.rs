//! Memory that is read and freed at the same time, and what is correct then.

use super::Guest;
use crate::pattern::{self, WORDS};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

const UNTOUCHED: u8 = 0;
const BEING_GIVEN_BACK: u8 = 1;
const GIVEN_BACK: u8 = 2;

/// The longest piece that is freed at a time.
const PIECE_PAGES: u64 = 40;

impl Guest {
    /// Frees `rounds` pieces, one by one, while threads read pages everywhere. A freed page reads as zeros as soon as the
    /// call has returned. A page that nobody began to free keeps its content.
    pub(super) fn race(&self, rounds: u64, threads: u64) -> Value {
        let pages = self.pages();
        let states: Vec<AtomicU8> = (0..pages).map(|_| AtomicU8::new(UNTOUCHED)).collect();
        let (over, wrong, reads) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for seed in 0..threads {
                let (states, over, wrong, reads) = (&states, &over, &wrong, &reads);
                scope.spawn(move || {
                    let mut seed = seed + 1;
                    while !over.load(Ordering::Relaxed) {
                        let page = random(&mut seed) % pages;
                        reads.fetch_add(1, Ordering::Relaxed);
                        if !self.is_right(page, &states[page as usize]) {
                            wrong.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            let mut seed = rounds;
            for round in 0..rounds {
                // Else all could be over before the others have begun.
                while reads.load(Ordering::Relaxed) < round {
                    std::thread::yield_now();
                }
                let first = random(&mut seed) % pages;
                let (region, at) = self.place(first);
                let in_region = ((region.len() - at) / forkd_linux_sys::PAGE_SIZE) as u64;
                let count = (1 + random(&mut seed) % PIECE_PAGES).min(in_region);
                let piece = &states[first as usize..(first + count) as usize];
                for state in piece {
                    let _ = state.compare_exchange(UNTOUCHED, BEING_GIVEN_BACK, Ordering::SeqCst, Ordering::SeqCst);
                }
                self.remove(first, count).expect("memory can be given back");
                piece.iter().for_each(|state| state.store(GIVEN_BACK, Ordering::SeqCst));
            }
            over.store(true, Ordering::Relaxed);
        });
        let after = (0..pages)
            .filter(|page| !self.is_right(*page, &states[*page as usize]))
            .count();
        json!({ "wrong": wrong.into_inner(), "wrong_after": after, "reads": reads.into_inner() })
    }

    fn is_right(&self, page: u64, state: &AtomicU8) -> bool {
        let before = state.load(Ordering::SeqCst);
        let words: Vec<u64> = (0..WORDS)
            .map(|index| self.word(page, index).load(Ordering::SeqCst))
            .collect();
        let after = state.load(Ordering::SeqCst);
        let is_word = |(index, word): (usize, &u64)| *word == pattern::word(page, index);
        match (before, after) {
            (GIVEN_BACK, _) => words.iter().all(|word| *word == 0),
            (UNTOUCHED, UNTOUCHED) => words.iter().enumerate().all(is_word),
            _ => words
                .iter()
                .enumerate()
                .all(|(index, word)| *word == 0 || is_word((index, word))),
        }
    }
}

fn random(seed: &mut u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}
