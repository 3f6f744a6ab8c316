//! Serves the memory of many forks from one read-only template, page by page, as each fork asks for it.
//!
//! A VMM connects, hands over the userfaultfd of its memory and says where it is, as Firecracker does. From then on a thread
//! reads what the kernel reports of it and fills the pages that are waited for: from memory at once, from elsewhere by
//! threads that all forks share. A page that cannot be had is never zeros: who touches it gets `SIGBUS`, or the VMM is ended.
//!
//! It knows of no virtual machine monitor, and of nobody who starts one.

mod branch;
mod error;
mod handshake;
mod layout;
mod record;
mod removed;
mod server;
mod session;
mod stats;
mod template;
mod workers;

pub use branch::ServedBranch;
pub use error::{PageError, Result};
pub use handshake::{Handshake, HandshakeError, layout_from_json};
pub use layout::{HUGE_PAGE_BYTES, Layout, LayoutError, Region};
pub use record::{Asked, Record, RecordError};
pub use removed::Removed;
pub use server::{Health, PageServer, ServerOptions};
pub use session::{Ended, Session, SessionOptions};
pub use stats::{Summary, WaitSummary};
pub use template::{
    ArrivingTemplate, Cached, Content, EarlyTemplate, FileTemplate, MemoryTemplate, ReadableSink, Run, SourceError,
    Template, first_of_a_kind,
};

/// The sample in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
