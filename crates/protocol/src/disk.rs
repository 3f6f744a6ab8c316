//! The messages between `forkd-controller` and `forkd-disk`.
//!
//! Both ends send one JSON object per line. Each [`DiskRequest`] gets exactly one [`DiskReply`] with the same id. Requests of one
//! connection run concurrently. The TypeScript twin of every type is generated into `packages/engine/src/disk/wire.ts`.

use crate::fault::Fault;
use crate::layers::{Blob, LayerRef};
use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// Bytes in a block of a disk, which is also the smallest request that a server takes.
pub const BLOCK_SIZE: u64 = 4096;

/// The largest disk, in bytes.
pub const DISK_BYTES_MAX: u64 = 512 << 30;

/// The most layers that a stack may have.
pub const DISK_LAYERS_MAX: usize = 4096;

/// Raised by one whenever a message changes its meaning; both ends refuse another number.
pub const DISK_PROTOCOL_VERSION: u32 = 2;

/// A line from the controller.
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "../disk/wire.ts")]
pub struct DiskRequest {
    #[ts(type = "number")]
    pub id: u64,
    #[serde(flatten)]
    pub op: DiskOp,
}

/// A request of the controller. A layer is named `sha256:<hex>` if it is in the store, and `disk:<n>` if this data directory
/// holds it. A name of the second kind stays valid until the layer is dropped, also after a restart of the server.
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[serde(tag = "op", rename_all = "snake_case")]
#[ts(export, export_to = "../disk/wire.ts")]
pub enum DiskOp {
    /// Answers [`DiskAnswer::Hello`].
    Hello,
    /// Makes a disk on top of layers, and serves it. Answers [`DiskAnswer::Opened`].
    Open(OpenDisk),
    /// Gives a disk that was opened without layers its content.
    Bind { key: String, layers: Vec<LayerRef> },
    /// Names the content of a disk at the instant at which its epoch became `epoch`. Fails with `BadRequest` if this server has not
    /// seen that epoch. Answers [`DiskAnswer::Sealed`].
    Seal {
        key: String,
        #[ts(type = "number")]
        epoch: u64,
    },
    /// Names the content of a disk as it is now. Its VM must be stopped. Answers [`DiskAnswer::Sealed`].
    Freeze { key: String },
    /// Notes a digest of each block of a disk, which [`DiskOp::FinishAudit`] compares. The VM must be stopped. The pager asks for
    /// it inside the pause of a branch.
    StartAudit { key: String },
    /// Compares what `layers` hold, as their files say, with what was noted. A block that differs is `AuditFailed`. Answers
    /// [`DiskAnswer::Audited`].
    FinishAudit { key: String, layers: Vec<LayerRef> },
    /// Writes layers to the store, and waits until they are on disk. Answers [`DiskAnswer::Blobs`], in the order of `layers`.
    Persist { layers: Vec<LayerRef> },
    /// Forgets layers that were sealed. Disks that use them keep them. Unknown layers are ignored.
    Drop { layers: Vec<LayerRef> },
    /// Ends a disk and its connections, and removes what it has written since it was sealed. An unknown disk is ignored.
    Close { key: String },
    /// Answers [`DiskAnswer::Usage`].
    Usage { key: String },
    /// Makes a durable layer of a raw image. Answers [`DiskAnswer::Blobs`] with one.
    Import {
        path: String,
        /// The size of the disk, which is at least that of the image. The rest is zeros.
        #[ts(type = "number")]
        size_bytes: u64,
    },
    /// Writes what a stack holds as one durable layer that needs no other. Answers [`DiskAnswer::Blobs`] with one.
    Merge { layers: Vec<LayerRef> },
    /// Writes what a stack holds to a new file as large as the disk, zeros left out.
    Export { layers: Vec<LayerRef>, path: String },
    /// Reads all that a stack holds. Answers [`DiskAnswer::Digest`].
    Digest { layers: Vec<LayerRef> },
    /// Answers [`DiskAnswer::Inventory`].
    Inventory,
    /// Ends the server. A VM that then uses its disk stops, until its disk is served again.
    Shutdown,
}

#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "../disk/wire.ts")]
pub struct OpenDisk {
    /// The name of the disk and of its NBD export: a secret of at most 64 letters, digits, `_` and `-`. A disk that is open
    /// already, or that an earlier server served, is adopted: its content stays, and `layers` is ignored.
    pub key: String,
    /// A multiple of [`BLOCK_SIZE`], at most [`DISK_BYTES_MAX`].
    #[ts(type = "number")]
    pub size_bytes: u64,
    /// Bottom layer first; empty: zeros. `null`: a disk that reads as zeros and refuses writes until it is bound.
    pub layers: Option<Vec<LayerRef>>,
    /// The VMM. `null`: the first process that shows the key is the VMM from then on.
    pub pid: Option<i32>,
}

/// The space and the traffic of a disk.
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "../disk/wire.ts")]
pub struct DiskUse {
    /// Blocks that were written since the disk was last sealed.
    #[ts(type = "number")]
    pub own_bytes: u64,
    /// Blocks of the layers below.
    #[ts(type = "number")]
    pub shared_bytes: u64,
    /// Bytes that the VM has read and written since this server was started.
    #[ts(type = "number")]
    pub read_bytes: u64,
    #[ts(type = "number")]
    pub written_bytes: u64,
    /// True if the last write failed because the host has no space left.
    pub full: bool,
}

/// The comparison of a disk's layers with the disk as it was inside the pause.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, TS)]
#[ts(export, export_to = "../disk/wire.ts")]
pub struct DiskAudit {
    /// Blocks with content, in the pause or in the layers. All others are zeros in both.
    #[ts(type = "number")]
    pub checked_blocks: u64,
    /// Zero: a disk of which a block differs fails the audit.
    #[ts(type = "number")]
    pub differing_blocks: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "../disk/wire.ts")]
pub struct HeldDisk {
    pub key: String,
    #[ts(type = "number")]
    pub size_bytes: u64,
    /// False if the disk has no content yet.
    pub bound: bool,
    /// False if an earlier server served the disk, and this one has not been asked for it.
    pub open: bool,
    /// The VMM, once it has called.
    pub pid: Option<i32>,
    #[ts(type = "number")]
    pub connections: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "../disk/wire.ts")]
pub struct HeldDiskLayer {
    pub layer: LayerRef,
    /// The digest of the layer, if it is known to be in the store.
    pub digest: Option<String>,
    /// The size of its blocks.
    #[ts(type = "number")]
    pub bytes: u64,
    /// True if it was sealed and not dropped.
    pub held: bool,
    /// How many disks use it.
    #[ts(type = "number")]
    pub disks: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[serde(tag = "answer", rename_all = "snake_case")]
#[ts(export, export_to = "../disk/wire.ts")]
pub enum DiskAnswer {
    Hello {
        protocol: u32,
        version: String,
        pid: u32,
    },
    Done,
    Opened {
        /// A file of one page that a branch maps. Its first eight bytes are the disk's epoch. A branch adds one to it while the VM
        /// is stopped: the writes before belong to the snapshot, and the writes after to the sandbox.
        epoch_path: String,
        #[ts(type = "number")]
        epoch: u64,
    },
    Sealed {
        /// The whole stack, bottom first.
        layers: Vec<LayerRef>,
        /// Blocks in the layers that were not sealed before.
        #[ts(type = "number")]
        own_bytes: u64,
    },
    Blobs {
        #[ts(inline)]
        blobs: Vec<Blob>,
    },
    Usage(DiskUse),
    Digest {
        /// SHA-256 of the number and the content of each block that is not zeros, as `sha256:<hex>`.
        digest: String,
        #[ts(type = "number")]
        blocks: u64,
    },
    Audited(DiskAudit),
    Inventory {
        disks: Vec<HeldDisk>,
        layers: Vec<HeldDiskLayer>,
    },
}

/// A line to the controller.
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[ts(export, export_to = "../disk/wire.ts")]
pub enum DiskReply {
    Ok {
        #[ts(type = "number")]
        id: u64,
        result: DiskAnswer,
    },
    Err {
        #[ts(type = "number")]
        id: u64,
        #[ts(type = "{ code: string, message: string }")]
        error: Fault,
    },
}
