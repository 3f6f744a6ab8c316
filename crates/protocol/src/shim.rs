//! The messages of the shim inside a VMM.

use serde::{Deserialize, Serialize};

/// The first message of the shim, as one line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShimHello {
    pub protocol: u32,
    pub sandbox: String,
    /// The key that the VMM was started with. The kernel tells the pager which process is calling.
    pub key: String,
    pub wants: ShimWants,
}

/// The answer that the shim wants from the pager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShimWants {
    /// The plan of the sandbox, at once.
    Plan,
    /// The plan of the VM that the VMM is given later.
    Wake,
    /// An empty plan: the memory is mapped, and the shim only hands over a new userfaultfd.
    Nothing,
}

/// A region of guest memory, as Firecracker describes it to a page-fault handler. The shim sends a JSON array of these
/// with the userfaultfd as ancillary data.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GuestRegion {
    pub base_host_virt_addr: u64,
    pub size: u64,
    pub offset: u64,
    pub page_size: u64,
}
