//! A process that does with a page server what a virtual machine monitor does, and what is needed to order it about.
//!
//! `forkd-vmm-stand-in` maps memory, hands its userfaultfd over with Firecracker's handshake, and then does what it reads
//! from its standard input, a line at a time: see [`guest::Guest::obey`]. [`Vmm`] is such a process, seen from outside.

pub mod guest;
pub mod pattern;
pub mod regions;
pub mod relay;
pub mod sandbox;
mod vmm;

pub use vmm::Vmm;
