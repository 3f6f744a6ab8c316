//! Layers in the form of the wire protocol.

use forkd_protocol::{Blob, HeldLayer, LayerMemory};

pub fn blob(blob: forkd_layers::Blob) -> Blob {
    Blob {
        digest: blob.digest,
        size: blob.size,
    }
}

pub fn blobs(blobs: Vec<forkd_layers::Blob>) -> Vec<Blob> {
    blobs.into_iter().map(blob).collect()
}

pub fn held_layer(held: forkd_layers::HeldLayer) -> HeldLayer {
    HeldLayer {
        layer: held.name,
        digest: held.digest,
        pages: held.pages,
        extents: held.extents,
        in_memory: held.in_memory,
    }
}

pub fn layer_memory(used: forkd_layers::MemoryUse) -> LayerMemory {
    LayerMemory {
        budget_bytes: used.budget_bytes,
        mapped_bytes: used.used_bytes,
        unmapped_bytes: used.unused_bytes,
        pending_bytes: used.pending_bytes,
        view_bytes: used.view_bytes,
        layers: used.layers,
        let_go: used.let_go,
        loaded_again: used.loaded_again,
        merged: used.merged,
        merged_in_forks: used.merged_on_demand,
        merged_in_forks_us: used.merged_on_demand_us,
    }
}
