//! What `forkd-wp-bench` measures with: memory as a sandbox has it, writers that can be held at an instant, and clocks that
//! tell a write that met a fault from one that was only slow.

pub mod bare;
pub mod quiet;
pub mod random;
pub mod region;
pub mod report;
pub mod run;
pub mod waits;
pub mod writers;
