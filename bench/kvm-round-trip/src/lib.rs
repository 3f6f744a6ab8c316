//! The round trip of a live branch on KVM itself: a machine with one processor, and a guest that needs no kernel.
//!
//! The guest writes all of its memory over and over, and its registers determine what memory must hold ([`guest`]).
//! [`forkd_capture::WpBranch`] captures the memory while the guest runs, and the registers are saved at the instant. A fresh
//! machine continues from them ([`round_trip`]).

pub mod guest;
pub mod machine;
pub mod round_trip;
