//! The request for a branch, its stages, and its result.

use crate::layers::{Blob, LayerRef};
use serde::{Deserialize, Serialize};
use ts_rs::TS;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "wire.ts")]
pub enum BranchMode {
    /// All of guest RAM, read inside the pause, without regard to layers: the reference.
    Full,
    /// The private pages, copied inside the pause.
    Diff,
    /// The private pages, protected inside the pause and copied after it.
    Live,
}

/// The conductor of a branch's pause window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "wire.ts")]
pub enum WindowKind {
    /// The shim, from the main loop of QEMU.
    Inside,
    /// The pager, by commands to the VMM.
    #[default]
    Monitor,
}

#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct Branch {
    pub sandbox: String,
    pub mode: BranchMode,
    /// Whether the VM runs on after the pause; `false` leaves it stopped (a template that will be discarded).
    pub resume: bool,
    /// Also copy all of guest RAM inside the pause (which makes it long) and compare it, byte for byte, with what the
    /// captured layer over its stack says. A page that differs fails the branch before it is ready. The server of the VM's disk
    /// is told, inside the pause, to note what every block holds; the caller has it compare.
    pub audit: bool,
    /// Also copies the private pages in a `full` branch, first and inside the same pause, to tell what `diff` would have cost.
    #[serde(default)]
    #[ts(as = "Option<bool>", optional)]
    pub measure_diff: bool,
    /// Absent for a VM without a disk.
    #[serde(default)]
    #[ts(optional)]
    pub disk: Option<BranchDisk>,
}

/// The disk of a VM that is branched, as its server offers it.
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct BranchDisk {
    /// The page with the number of the disk's epoch. The pager raises that number in the pause.
    pub epoch_path: String,
    /// The socket at which the server takes requests. An audit asks there, in the pause, for a look at every block.
    pub server_socket: String,
    /// The name of the disk at its server.
    pub key: String,
}

/// A stage that a branch has reached.
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[serde(tag = "stage", rename_all = "snake_case")]
#[ts(export, export_to = "wire.ts")]
pub enum BranchEvent {
    /// The source runs again.
    Resumed {
        stats: BranchStats,
        /// The epoch that began in the pause: the disk belongs to the branch as it was before. `null` for a VM without a disk.
        #[ts(type = "number | null")]
        disk_epoch: Option<u64>,
    },
    /// The layer is complete in RAM and the device state is in the store: children can start from `stack`.
    Ready {
        stack: Vec<LayerRef>,
        device_state: Blob,
        stats: BranchStats,
        audit: Option<Audit>,
    },
}

/// What a branch cost. Times run from the request; those of stages not reached are zero.
#[derive(Debug, Clone, Default, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct BranchStats {
    /// The conductor of the pause.
    pub window: WindowKind,
    /// vCPUs stopped → running again. Over the monitor, the pager measures it: from before `stop` was sent to after `cont`
    /// was answered. Inside, the shim measures it: from before `vm_stop` to after `vm_start`.
    #[ts(type = "number")]
    pub pause_us: u64,
    #[ts(type = "number")]
    pub device_state_us: u64,
    /// Write-protecting all of the range before the pause.
    #[ts(type = "number")]
    pub arm_us: u64,
    /// Listing the private pages before the pause (`live`) or inside it.
    #[ts(type = "number")]
    pub scan_us: u64,
    /// Protecting again, before the pause, the pages that were written meanwhile; and the rounds that it took.
    #[ts(type = "number")]
    pub settle_us: u64,
    #[ts(type = "number")]
    pub settle_rounds: u64,
    /// Written since, and so protected again inside the pause.
    #[ts(type = "number")]
    pub touched_pages: u64,
    /// The VM's private pages at the instant of the branch.
    #[ts(type = "number")]
    pub private_pages: u64,
    /// Pages that the new layer holds: private and unlike the layer below.
    #[ts(type = "number")]
    pub captured_pages: u64,
    #[ts(type = "number")]
    pub captured_bytes: u64,
    /// The source running again → the last page copied.
    #[ts(type = "number")]
    pub capture_us: u64,
    /// Listing and copying the private pages inside the pause: of a `diff`, or of the measurement in a `full`.
    #[ts(type = "number")]
    pub diff_us: u64,
    /// Pages that the layer of that `diff` holds.
    #[ts(type = "number")]
    pub diff_pages: u64,
    /// Of the private pages: copied in bulk, and for a write of the guest that waited for it.
    #[ts(type = "number")]
    pub pages_by_copy: u64,
    #[ts(type = "number")]
    pub pages_by_fault: u64,
    /// Writes of the guest that met the protection after the pause, and the time from each being seen by the pager until
    /// its page was released.
    #[ts(type = "number")]
    pub faults: u64,
    #[ts(type = "number")]
    pub fault_wait_ns_p50: u64,
    #[ts(type = "number")]
    pub fault_wait_ns_p99: u64,
    #[ts(type = "number")]
    pub fault_wait_ns_max: u64,
    #[ts(type = "number")]
    pub ready_us: u64,
    #[ts(type = "number")]
    pub durable_us: u64,
}

/// The outcome of a branch that is durable.
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct BranchDone {
    /// All layers by digest, bottom first. One that holds no page is left out.
    pub stack: Vec<Blob>,
    pub device_state: Blob,
    pub stats: BranchStats,
    pub audit: Option<Audit>,
}

/// The comparison of a captured layer with a copy taken inside the pause.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct Audit {
    #[ts(type = "number")]
    pub checked_pages: u64,
    /// Zero: a branch of which a page differs fails with `audit_failed`.
    #[ts(type = "number")]
    pub differing_pages: u64,
    /// Captured pages that the guest has changed since: shows that it wrote while it was captured.
    #[ts(type = "number")]
    pub changed_since: u64,
}
