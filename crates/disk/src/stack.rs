//! A stack of layers, and reading what it holds.

use crate::error::Result;
use crate::layer::Layer;
use crate::map::Map;
use forkd_protocol::disk::BLOCK_SIZE;
use std::ops::Range;
use std::sync::Arc;

const BLOCK: usize = BLOCK_SIZE as usize;

/// Blocks are visited this many bytes at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Layers, and where each block is in them.
#[derive(Debug, Clone)]
pub struct Stack {
    pub map: Map,
    /// Bottom first.
    pub layers: Vec<Arc<Layer>>,
    /// The same layers in the order of their numbers.
    by_number: Vec<Arc<Layer>>,
}

/// Consecutive blocks in consecutive slots of a layer.
#[derive(Debug)]
pub struct Part {
    pub blocks: u64,
    /// The layer and the first slot; `None`: zeros.
    pub place: Option<(Arc<Layer>, u64)>,
}

impl Stack {
    pub fn new(layers: Vec<Arc<Layer>>, map: Map) -> Stack {
        let mut by_number = layers.clone();
        by_number.sort_by_key(|layer| layer.number);
        Stack { map, layers, by_number }
    }

    /// Puts a layer on top that has no block yet.
    pub fn push(&mut self, layer: Arc<Layer>) {
        self.layers.push(layer.clone());
        let place = self.by_number.partition_point(|other| other.number < layer.number);
        self.by_number.insert(place, layer);
    }

    /// Fills `buffer`, which is whole blocks, with the content from `block` on.
    pub fn read(&self, mut block: u64, mut buffer: &mut [u8]) -> Result<()> {
        while !buffer.is_empty() {
            let run = self.map.run(block, (buffer.len() / BLOCK) as u64);
            let (part, rest) = buffer.split_at_mut(run.blocks as usize * BLOCK);
            match run.place {
                None => part.fill(0),
                Some(place) => self.layer(place.layer).read(place.slot, part)?,
            }
            (block, buffer) = (block + run.blocks, rest);
        }
        Ok(())
    }

    /// The parts of `blocks`, in order, with the layer that has each: a part without one is zeros.
    pub fn parts(&self, blocks: Range<u64>) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        let mut block = blocks.start;
        while block < blocks.end {
            let run = self.map.run(block, blocks.end - block);
            let place = run.place.map(|place| (self.layer(place.layer).clone(), place.slot));
            place.as_ref().map_or(Ok(()), |(layer, _)| layer.trust())?;
            parts.push(Part {
                blocks: run.blocks,
                place,
            });
            block += run.blocks;
        }
        Ok(parts)
    }

    /// Calls `visit` with the first block and the content of everything that has content, in ascending order.
    pub fn visit(&self, mut visit: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut result = Ok(());
        self.map.extents(|extent| {
            let layer = self.layer(extent.place.layer);
            for done in (0..extent.blocks).step_by(CHUNK_BYTES / BLOCK) {
                let part = ((extent.blocks - done) as usize * BLOCK).min(CHUNK_BYTES);
                let part = &mut buffer[..part];
                if result.is_ok() {
                    let read = layer.read(extent.place.slot + done, part);
                    result = read.and_then(|()| visit(extent.block + done, part));
                }
            }
        });
        result
    }

    fn layer(&self, number: u32) -> &Arc<Layer> {
        let place = self.by_number.binary_search_by_key(&number, |layer| layer.number);
        &self.by_number[place.expect("a map names layers of its stack")]
    }
}
