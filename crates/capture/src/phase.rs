//! How far a capture is, and what a write fault means then.

use crate::set::{CaptureSet, Claim};
use std::sync::Arc;

/// What a write fault means.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Before the instant: the page is noted, and its protection lifted.
    Tracking { touched: Vec<u64> },
    /// After the instant: a page of the set is read first.
    Capturing { set: Arc<CaptureSet> },
    /// Over: the protection is lifted.
    Released,
}

/// What is to be done about a write fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// Lift the page's protection: nobody needs what is in it.
    Release,
    /// Read the page, which is the caller's now, then lift its protection.
    ReadAndRelease { rank: u64 },
    /// Nothing: who reads the page at this moment will lift its protection.
    Leave { rank: u64 },
}

impl Phase {
    /// Decides about a fault at `page`, and takes note of it.
    pub fn fault(&mut self, page: u64) -> Service {
        let set = match self {
            Phase::Tracking { touched } => {
                touched.push(page);
                return Service::Release;
            }
            Phase::Capturing { set } => set,
            Phase::Released => return Service::Release,
        };
        let Some(rank) = set.rank(page) else {
            return Service::Release;
        };
        match set.claim(rank) {
            Claim::Yours => Service::ReadAndRelease { rank },
            Claim::Others => Service::Leave { rank },
            Claim::Read => Service::Release,
        }
    }
}
