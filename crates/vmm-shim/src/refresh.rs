//! Makes a VM's memory its own where it must not be its siblings': the random number generator of its kernel.
//!
//! The change is made after the layers are mapped and before QEMU has a device state, so no instruction of the VM has run. The
//! changed pages become private pages of this VM, like any page that it writes later, and a branch captures them so.

use forkd_linux_sys::random;
use forkd_protocol::Refresh;
use forkd_protocol::refresh::{Fresh, REFRESH_BYTES_MAX, check_all};

/// Applies all of the plan's refreshes, or none.
///
/// # Safety
/// `mem_bytes` of memory are mapped at `base`, readable and writable, and nothing else uses them meanwhile.
pub unsafe fn apply(refreshes: &[Refresh], base: u64, mem_bytes: u64) -> Result<(), String> {
    check_all(refreshes, mem_bytes)?;
    for refresh in refreshes {
        let mut fresh: Fresh = [0; REFRESH_BYTES_MAX];
        random::fill(&mut fresh).map_err(|error| format!("drawing random bytes: {error}"))?;
        let start = (base + refresh.at) as *mut u8;
        // SAFETY: the piece is inside the caller's memory, as was checked above, and any bytes are valid.
        let memory = unsafe { std::slice::from_raw_parts_mut(start, refresh.bytes as usize) };
        if !refresh.apply(memory, &fresh) {
            eprintln!("forkd-shim: the generation page is not at {:#x} any more", refresh.at);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use forkd_protocol::RefreshOp;

    /// Applies to memory of this process.
    fn apply_to(memory: &mut [u8], refreshes: &[Refresh]) -> Result<(), String> {
        // SAFETY: the slice is this function's alone.
        unsafe { apply(refreshes, memory.as_mut_ptr() as u64, memory.len() as u64) }
    }

    #[test]
    fn two_siblings_get_different_keys_and_the_same_next_generation() {
        let refreshes = [
            Refresh {
                at: 4,
                bytes: 32,
                op: RefreshOp::Mix,
            },
            Refresh {
                at: 40,
                bytes: 8,
                op: RefreshOp::Count,
            },
        ];
        let [mut one, mut other] = [[7u8; 48]; 2];
        apply_to(&mut one, &refreshes).expect("refreshed");
        apply_to(&mut other, &refreshes).expect("refreshed");
        assert_ne!(one[4..36], other[4..36]);
        assert_eq!((&one[..4], &one[36..40]), (&[7u8; 4][..], &[7u8; 4][..]));
        assert_eq!((one[40], other[40]), (8, 8));
    }

    #[test]
    fn a_list_with_a_refresh_outside_of_memory_changes_nothing() {
        let inside = Refresh {
            at: 0,
            bytes: 8,
            op: RefreshOp::Count,
        };
        let mut memory = [0u8; 64];
        for outside in [57, 64, u64::MAX - 7, u64::MAX] {
            let refused = apply_to(&mut memory, &[inside, Refresh { at: outside, ..inside }]);
            assert!(refused.is_err_and(|why| why.contains("outside of memory")), "{outside}");
        }
        assert_eq!(memory, [0; 64]);
    }
}
