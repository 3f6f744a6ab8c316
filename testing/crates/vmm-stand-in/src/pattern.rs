//! Content of the pages of a template: each page names itself, and some are zeros.

use forkd_linux_sys::PAGE_SIZE;

pub const WORDS: usize = PAGE_SIZE / 8;

/// Every fourth page, and now and then sixteen in a row.
pub fn is_zero(page: u64) -> bool {
    page % 4 == 3 || page / 16 % 8 == 5
}

/// A word of a page.
pub fn word(page: u64, index: usize) -> u64 {
    if is_zero(page) {
        return 0;
    }
    let mixed = (page << 9 | index as u64)
        .wrapping_add(1)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ mixed >> 29
}

/// The bytes of a page.
pub fn bytes(page: u64) -> Vec<u8> {
    (0..WORDS).flat_map(|index| word(page, index).to_ne_bytes()).collect()
}
