//! Serves the memory of many forks from one read-only template, page by page, as each fork asks for it.
//!
//! A VMM connects, hands over the userfaultfd of its memory and describes the memory's layout, as Firecracker does. From then on a
//! thread reads the events of the userfaultfd and fills the pages that threads of the VMM wait for: from memory at once, from
//! elsewhere by worker threads that all forks share. A page that is unavailable is never zeros: a thread that touches it gets
//! `SIGBUS`, or the VMM is ended.
//!
//! The library knows no virtual machine monitor. The program `forkd-page-server` serves VMMs by it.

mod branch;
mod error;
mod handshake;
mod layout;
mod record;
mod refresh;
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
pub use record::{AskedRun, Record, RecordError};
pub use refresh::{RefreshError, change, refreshed};
pub use removed::Removed;
pub use server::{CONNECT_PATIENCE, Health, PageServer, ServerOptions};
pub use session::{Ended, Session, SessionOptions};
pub use stats::{Summary, WaitSummary};
pub use template::{
    ArrivingTemplate, Cached, Content, EarlyTemplate, FileTemplate, MemoryTemplate, ReadableSink, RefreshedTemplate,
    Run, SourceError, StackTemplate, Template, first_of_a_kind,
};

/// The sample in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
