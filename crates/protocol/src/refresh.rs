//! Changes to the memory of a child before its first instruction, so that it draws its own random numbers.

use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// The most refreshes in a plan, and the most bytes of a refresh.
pub const REFRESHES_MAX: usize = 8;
pub const REFRESH_BYTES_MAX: usize = 64;

/// The bytes at the start of a generation page, before its number.
pub const PAGE_MAGIC: &[u8; 16] = b"FORKD GENERATION";

/// Bytes of a number that is incremented.
const NUMBER_BYTES: usize = 8;

/// One place in guest memory, and what is done there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct Refresh {
    /// Offset in guest memory as the host maps it. (Above 3 GiB this is not the guest's address.)
    #[ts(type = "number")]
    pub at: u64,
    #[ts(type = "number")]
    pub bytes: u64,
    pub op: RefreshOp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "wire.ts")]
pub enum RefreshOp {
    /// Mixes in as many fresh random bytes. A key stays as unknown as it was, even to one who knows those bytes.
    Mix,
    /// Counts up a 64-bit number, but never to one of the two that mean "not seeded" to a kernel: the greatest, and zero.
    Count,
    /// Counts up the number of a generation page, if its magic stands there. A page that is no longer there is left alone.
    Page,
}

/// Random bytes for one refresh.
pub type Fresh = [u8; REFRESH_BYTES_MAX];

impl Refresh {
    /// Fails if the refresh lies outside of memory, or if its size does not fit its operation.
    pub fn check(&self, mem_bytes: u64) -> Result<(), String> {
        let Refresh { at, bytes, op } = *self;
        let fits = match op {
            RefreshOp::Mix => (1..=REFRESH_BYTES_MAX as u64).contains(&bytes),
            RefreshOp::Count => bytes == NUMBER_BYTES as u64,
            RefreshOp::Page => bytes == (PAGE_MAGIC.len() + NUMBER_BYTES) as u64,
        };
        if !fits {
            return Err(format!("a refresh ({op:?}) of {bytes} bytes is not possible"));
        }
        if at.checked_add(bytes).is_none_or(|end| end > mem_bytes) {
            return Err(format!("a refresh of {bytes} bytes at {at} is outside of memory"));
        }
        Ok(())
    }

    /// Changes `memory`, the bytes that the refresh names. `false` if they should be a generation page and are not.
    pub fn apply(&self, memory: &mut [u8], fresh: &Fresh) -> bool {
        match self.op {
            RefreshOp::Mix => {
                for (byte, random) in memory.iter_mut().zip(fresh) {
                    *byte ^= random;
                }
            }
            RefreshOp::Count => count(memory),
            RefreshOp::Page => {
                let (magic, number) = memory.split_at_mut(PAGE_MAGIC.len());
                if magic != PAGE_MAGIC {
                    return false;
                }
                count(number);
            }
        }
        true
    }
}

/// Checks all refreshes of a list.
pub fn check_all(refreshes: &[Refresh], mem_bytes: u64) -> Result<(), String> {
    if refreshes.len() > REFRESHES_MAX {
        return Err(format!("{} refreshes are too many", refreshes.len()));
    }
    refreshes.iter().try_for_each(|refresh| refresh.check(mem_bytes))
}

fn count(number: &mut [u8]) {
    let bytes: &mut [u8; NUMBER_BYTES] = number.try_into().expect("checked before");
    let next = match u64::from_le_bytes(*bytes) {
        number if number >= u64::MAX - 1 => 1,
        number => number + 1,
    };
    *bytes = next.to_le_bytes();
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: u64 = 1 << 20;

    fn refresh(op: RefreshOp, bytes: u64) -> Refresh {
        Refresh { at: 0, bytes, op }
    }

    fn counted(number: u64) -> u64 {
        let mut memory = number.to_le_bytes();
        assert!(refresh(RefreshOp::Count, 8).apply(&mut memory, &[0; REFRESH_BYTES_MAX]));
        u64::from_le_bytes(memory)
    }

    #[test]
    fn counting_never_gives_a_number_that_means_not_seeded() {
        assert_eq!([0, 1, 41].map(counted), [1, 2, 42]);
        assert_eq!(
            [u64::MAX - 2, u64::MAX - 1, u64::MAX].map(counted),
            [u64::MAX - 1, 1, 1]
        );
    }

    #[test]
    fn mixing_keeps_what_was_unknown() {
        let mut memory = [0xaa; 32];
        let mut fresh = [0; REFRESH_BYTES_MAX];
        fresh[..2].copy_from_slice(&[0xff, 1]);
        assert!(refresh(RefreshOp::Mix, 32).apply(&mut memory, &fresh));
        assert_eq!((memory[0], memory[1], memory[2]), (0x55, 0xab, 0xaa));
    }

    #[test]
    fn a_generation_page_is_counted_only_where_its_magic_stands() {
        let page = refresh(RefreshOp::Page, 24);
        let mut memory = [0; 24];
        memory[..16].copy_from_slice(PAGE_MAGIC);
        assert!(page.apply(&mut memory, &[0; REFRESH_BYTES_MAX]));
        assert_eq!(memory[16], 1);
        memory[3] ^= 1;
        let moved = memory;
        assert!(!page.apply(&mut memory, &[0; REFRESH_BYTES_MAX]));
        assert_eq!(memory, moved);
    }

    #[test]
    fn what_is_outside_of_memory_is_refused() {
        let at = |at| Refresh {
            at,
            bytes: 8,
            op: RefreshOp::Count,
        };
        assert!(at(MEMORY - 8).check(MEMORY).is_ok());
        for beyond in [MEMORY - 7, MEMORY, u64::MAX - 3, u64::MAX] {
            assert!(at(beyond).check(MEMORY).is_err(), "{beyond}");
        }
        for (op, bytes) in [
            (RefreshOp::Mix, 0),
            (RefreshOp::Mix, 65),
            (RefreshOp::Count, 4),
            (RefreshOp::Page, 8),
        ] {
            assert!(refresh(op, bytes).check(MEMORY).is_err(), "{op:?} of {bytes}");
        }
        assert!(check_all(&[at(0); REFRESHES_MAX], MEMORY).is_ok());
        assert!(check_all(&[at(0); REFRESHES_MAX + 1], MEMORY).is_err());
    }
}
