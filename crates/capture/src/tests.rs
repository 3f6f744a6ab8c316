//! The guarantee of a capture, held against a copy made at its instant: real userfaultfd, real page map, writers at full
//! speed in this process. Each round prints its seed when it fails.

mod area;
mod faults;
mod instant;
mod kernels;
mod regions;
mod sinks;
mod storm;
mod swap;
mod waits;
