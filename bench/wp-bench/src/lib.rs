//! The parts of `forkd-wp-bench`: memory like that of a sandbox, writers that can be stopped at an instant, and clocks
//! that tell a write that met a fault from one that was only slow.

pub mod bare;
pub mod hostile;
pub mod quiet;
pub mod random;
pub mod region;
pub mod report;
pub mod run;
pub mod waits;
pub mod writers;
