//! Captures the private pages of a running process at one instant. This is the mechanism of a live branch, and knows
//! nothing of virtual machines. It works on any private mapping, anonymous or of a memfd, of this process or of another
//! process that has handed over a userfaultfd.
//!
//! The caller takes the steps below in order. The sink then receives, for every page of the set, the bytes that the page had when
//! [`WpBranch::take`] was called, provided that nothing writes to the range during that call. A page that is not in the set is not
//! private: it has the content of the file under it, or zeros.
//! 1. [`WpBranch::arm`], while the process runs: registers and protects the range, lists its private pages, and starts the
//!    fault handler. A first write to a page now faults once; the handler notes the page as *touched* and releases it.
//!    Touched pages are protected again until few are left ([`WpBranch::settle`]).
//! 2. The caller stops all writers. [`WpBranch::take`] protects the last touched pages again. Work in proportion to them.
//! 3. The caller resumes the writers. [`WpBranch::copy`] copies the set. A write to a page that has not been copied waits
//!    until the handler has read that page, which it does at once.
//! 4. [`WpBranch::finish`] lifts the protection and ends the handler. Dropping the branch does the same at any point.
//!
//! [`WpBranch::arm_served`] captures memory whose pages another program serves by reading its userfaultfd. That program
//! reports write faults through a [`FaultQueue`].
//!
//! Requires Linux 5.19 for mappings of a memfd, 5.7 for anonymous memory, and the right to create a userfaultfd.

mod branch;
mod early;
mod error;
mod handler;
mod phase;
mod queue;
mod set;
mod sink;
mod source;
mod waits;

pub use branch::{Statistics, WpBranch, copy_still};
pub use early::EarlyImage;
pub use error::{CaptureError, Result};
pub use queue::FaultQueue;
pub use set::{CaptureSet, Claim, Run};
pub use sink::Sink;
pub use source::{Listing, Region, Source, Target};
pub use waits::WaitSummary;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

/// Compiles the sample in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
