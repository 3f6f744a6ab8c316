//! Capturing the private pages of a running process at one instant: the mechanism of a live branch, which knows nothing of
//! virtual machines. It works on any private mapping, anonymous or of a memfd, of this process or of another one that has
//! handed over a userfaultfd.
//!
//! The caller's steps, in order; the guarantee is that the sink is given, for every page of the set, the bytes that it had
//! when [`WpBranch::take`] was called, provided that nothing writes to the range during that call. A page that is not in the
//! set is not private: it has what the file under it has, or zeros.
//! 1. [`WpBranch::arm`], the process running: registers and protects the range, lists its private pages, and starts the
//!    fault handler. A first write to a page now faults once; the handler notes the page as *touched* and lets it go.
//!    Touched pages are protected again until few are left ([`WpBranch::settle`]).
//! 2. The caller stops whatever writes. [`WpBranch::take`] protects the last touched pages again. Work in proportion to them.
//! 3. The caller lets it run. [`WpBranch::copy`] copies the set. A write to a page that has not been copied waits for that
//!    page to be read, which the handler does at once.
//! 4. [`WpBranch::finish`] lifts the protection and ends the handler. Dropping the branch does the same at any point.
//!
//! Memory whose pages are served by somebody who reads its userfaultfd is captured by [`WpBranch::arm_served`], which is told of
//! write faults through a [`FaultQueue`].
//!
//! Needs Linux 5.19 for mappings of a memfd, 5.7 for anonymous memory, and the right to create a userfaultfd.

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

/// The sample in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
