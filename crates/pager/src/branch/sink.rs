//! The sink of a branch: a layer that holds only pages that differ from the layers below.

use forkd_capture::{CaptureSet, Run, Sink};
use forkd_layers::{Extent, Layer, LayerBuilder, Result, Stack};
use std::io;
use std::sync::Arc;

/// A layer that a capture fills. The rank of a page in the captured set is its position in the layer.
pub struct LayerSink(LayerBuilder);

impl LayerSink {
    pub fn new(below: Arc<Stack>) -> Result<LayerSink> {
        LayerBuilder::new(below).map(LayerSink)
    }

    /// Seals the layer. Every page of `set` must have been put.
    pub fn seal(&self, set: &CaptureSet) -> Result<Layer> {
        self.0.seal(set.runs().map(extent_of))
    }
}

impl Sink for LayerSink {
    fn put(&self, run: Run, bytes: &[u8]) -> io::Result<()> {
        self.0.put(extent_of(run), bytes)
    }
}

fn extent_of(run: Run) -> Extent {
    Extent {
        page: run.page,
        slot: run.first_rank,
        pages: run.pages,
    }
}
