//! Makes system calls of the calling thread fail, to show what a program does on a host that lacks them.
//!
//! A seccomp filter does it: what the thread starts from then on inherits it, threads and programs alike, and nothing takes
//! it off again.

mod denial;
mod filter;

pub use denial::Denial;

use std::io;

/// Makes the kernel kill the process by `SIGSYS` when the calling thread or its children make the system call of that
/// number.
pub fn kill_at(number: i64) -> io::Result<()> {
    filter::install(&filter::killing(number))
}

/// Makes `denials` fail for the calling thread and all its children. The thread can gain no privileges afterwards.
pub fn deny(denials: &[Denial]) -> io::Result<()> {
    filter::install(&filter::program(denials))
}
