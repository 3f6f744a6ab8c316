//! The phase of a capture, which decides about write faults.

use crate::set::{CaptureSet, Claim};
use std::sync::Arc;

/// The phase of a capture, with its response to a write fault.
#[derive(Debug)]
pub(crate) enum Phase {
    /// The time before the instant: note the page and lift its protection.
    Tracking { touched: Vec<u64> },
    /// The time after the instant: read a page of the set first.
    Capturing { set: Arc<CaptureSet> },
    /// The capture is over: lift the protection.
    Released,
}

/// The response to a write fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// Lift the page's protection: its content is not needed.
    Release,
    /// Read the page, which the caller has now claimed, then lift its protection.
    ReadAndRelease { rank: u64 },
    /// Do nothing: the thread that is reading the page will lift its protection.
    Leave { rank: u64 },
}

impl Phase {
    /// Decides about a fault at `page`, and records it.
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
