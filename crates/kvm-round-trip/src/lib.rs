//! The round trip of a live branch on KVM itself: a machine with one processor, and a guest that needs no kernel.
//!
//! The guest writes all of its memory over and over, and what memory must hold follows from its registers ([`guest`]). Its
//! memory is captured by [`forkd_capture::WpBranch`] as it runs, and its registers are saved at the instant; a fresh machine
//! goes on from them ([`round_trip`]).

pub mod guest;
pub mod machine;
pub mod round_trip;
