//! The pages that are written and checked.

const WORDS_A_PAGE: usize = 512;
/// A page is written at this many places, spread over it.
const PLACES: usize = 8;

pub struct Memory {
    words: Vec<u64>,
    seed: u64,
    writes: u64,
    errors: u64,
}

impl Memory {
    /// Every page of it written once, which is not counted.
    pub fn filled(mib: usize) -> Memory {
        let mut memory = Memory {
            words: vec![0; mib << 17],
            seed: 0x5eed,
            writes: 0,
            errors: 0,
        };
        (0..memory.pages()).for_each(|page| memory.write(page, 1));
        memory
    }

    /// Checks a random page, and writes it again.
    pub fn step(&mut self, rewrite: bool) {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let page = (self.seed >> 33) as usize % self.pages();
        let before = self.words[page * WORDS_A_PAGE];
        let intact = (0..PLACES).all(|place| self.words[at(page, place)] == word(page, place, before));
        self.errors += u64::from(!intact);
        if rewrite {
            self.write(page, before + 1);
            self.writes += 1;
        }
    }

    pub fn writes(&self) -> u64 {
        self.writes
    }

    pub fn errors(&self) -> u64 {
        self.errors
    }

    fn pages(&self) -> usize {
        self.words.len() / WORDS_A_PAGE
    }

    fn write(&mut self, page: usize, generation: u64) {
        for place in 0..PLACES {
            self.words[at(page, place)] = word(page, place, generation);
        }
    }
}

fn at(page: usize, place: usize) -> usize {
    page * WORDS_A_PAGE + place * (WORDS_A_PAGE / PLACES)
}

/// The word at a place of a page after its n-th write. The first place holds n itself.
fn word(page: usize, place: usize, generation: u64) -> u64 {
    if place == 0 {
        return generation;
    }
    (generation ^ (page as u64) << 32)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(place as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_was_changed_behind_its_back_is_an_error() {
        let mut memory = Memory::filled(1);
        (0..10_000).for_each(|_| memory.step(true));
        assert_eq!((memory.writes(), memory.errors()), (10_000, 0));
        for page in 0..memory.pages() {
            memory.words[at(page, 3)] ^= 1;
        }
        memory.step(false);
        assert_eq!((memory.writes(), memory.errors()), (10_000, 1));
    }
}
