//! Compares a capture with a copy made at its instant: real userfaultfd, real page map, and writers at full speed in
//! this process. Each round prints its seed when it fails.

mod area;
mod faults;
mod hostile;
mod instant;
mod kernels;
mod regions;
mod sinks;
mod storm;
mod swap;
mod waits;
