//! Makes system calls of the calling thread fail, to show what a program does on a host that lacks them.
//!
//! A seccomp filter does it: what the thread starts from then on inherits it, threads and programs alike, and nothing takes
//! it off again.

mod denial;
mod filter;

pub use denial::Denial;

use std::io;

/// From now on `denials` fail, for the calling thread and for all that it starts. It can gain no privileges any more.
pub fn deny(denials: &[Denial]) -> io::Result<()> {
    filter::install(&filter::program(denials))
}
