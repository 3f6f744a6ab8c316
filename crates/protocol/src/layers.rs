//! Layers and files of the store.

use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// The name of a layer: `sha256:<hex>` for a layer in the store, `ram:<n>` for a layer that this pager holds and has not
/// made durable yet. A `ram:` name stays valid while the pager lives, even after the layer has become durable.
pub type LayerRef = String;

/// A file of the store, by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct Blob {
    /// `sha256:<hex>`
    pub digest: String,
    #[ts(type = "number")]
    pub size: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct HeldLayer {
    pub layer: LayerRef,
    /// The digest of the layer, once it is durable.
    pub digest: Option<String>,
    #[ts(type = "number")]
    pub pages: u64,
    #[ts(type = "number")]
    pub extents: u64,
    /// False if it was let go: it is read from the store when it is needed.
    pub in_memory: bool,
}

/// The memory of the layers that are held.
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct LayerMemory {
    /// The bytes that layers without a mapping may take.
    #[ts(type = "number")]
    pub budget_bytes: u64,
    /// Of layers that VMs map, or that a branch, an export or a page server uses.
    #[ts(type = "number")]
    pub mapped_bytes: u64,
    /// Of layers that nobody uses and that are on disk.
    #[ts(type = "number")]
    pub unmapped_bytes: u64,
    /// Of layers that nobody uses and that are not on disk.
    #[ts(type = "number")]
    pub pending_bytes: u64,
    /// Of merged views, which are among the mapped and the unmapped.
    #[ts(type = "number")]
    pub view_bytes: u64,
    /// Layers and views in RAM.
    #[ts(type = "number")]
    pub layers: u64,
    /// How many layers were let go, and how many of them were read again, since the pager was started.
    #[ts(type = "number")]
    pub let_go: u64,
    #[ts(type = "number")]
    pub loaded_again: u64,
    /// Merged views that were made in the background.
    #[ts(type = "number")]
    pub merged: u64,
    /// Merged views that forks had to wait for, and how long those took.
    #[ts(type = "number")]
    pub merged_in_forks: u64,
    #[ts(type = "number")]
    pub merged_in_forks_us: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "wire.ts")]
pub struct ImportMemory {
    /// Guest RAM in bytes, which is also the file's size.
    #[ts(type = "number")]
    pub mem_bytes: u64,
    /// The layers below, bottom first. Empty: the layer is a base.
    pub stack: Vec<LayerRef>,
    pub path: String,
    /// The file has only the pages written since memory was what the stack holds; its holes mean "as below". Otherwise
    /// it has all, and is compared with the stack.
    pub tracked: bool,
}
