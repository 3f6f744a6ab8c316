//! Memory that is served page by page.

use crate::layers::LayerRef;
use crate::refresh::Refresh;
use serde::{Deserialize, Serialize};
use ts_rs::TS;

#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct ServePages {
    pub sandbox: String,
    /// Its VMM, which runs already: nobody else is let through.
    pub pid: i32,
    /// Guest RAM in bytes, a multiple of [`PAGE_SIZE`].
    #[ts(type = "number")]
    pub mem_bytes: u64,
    /// Bottom layer first.
    pub stack: Vec<LayerRef>,
    /// The changes of the VM's own pages before it gets them. Left out: none.
    #[serde(default)]
    #[ts(as = "Option<Vec<Refresh>>", optional)]
    pub refresh: Vec<Refresh>,
    /// Where to listen. The socket is there for as long as the VM needs the pager.
    pub socket: String,
}

/// All whose memory is served page by page at this moment, and what has been done since the pager was started.
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct PageInventory {
    pub served: Vec<ServedSandbox>,
    pub total: PageStats,
}

#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct ServedSandbox {
    pub sandbox: String,
    pub pid: i32,
    /// Whether the VMM has handed over its memory.
    pub connected: bool,
    pub stats: PageStats,
}

/// What serving memory took.
#[derive(Debug, Clone, Default, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct PageStats {
    /// Pages that somebody waited for; and of those, the ones that another one had been quicker for.
    #[ts(type = "number")]
    pub faults: u64,
    #[ts(type = "number")]
    pub already_there: u64,
    #[ts(type = "number")]
    pub copied_pages: u64,
    #[ts(type = "number")]
    pub copied_bytes: u64,
    #[ts(type = "number")]
    pub zeroed_pages: u64,
    /// Of the pages, those that nobody had asked for yet: since an earlier VM of the stack had, and all the others.
    #[ts(type = "number")]
    pub prefetched_pages: u64,
    #[ts(type = "number")]
    pub populated_pages: u64,
    /// From a fault being seen until its page was there.
    #[ts(type = "number")]
    pub wait_ns_p50: u64,
    #[ts(type = "number")]
    pub wait_ns_p99: u64,
    #[ts(type = "number")]
    pub wait_ns_max: u64,
}
