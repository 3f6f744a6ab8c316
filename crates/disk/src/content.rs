//! The content of a disk, and the order in which it changes.
//!
//! A write goes in this order: data, journal, map, reply. What a VMM was told is done is therefore in files, and outlives this process;
//! what it was not told may be done or not, and doing it again is harmless. A block that the topmost layer has already is overwritten in
//! place. All lower layers are never written again.

use crate::error::{Result, Step};
use crate::journal::{Journal, Record};
use crate::layer::Layer;
use crate::map::{Extent, Place};
use crate::slots::Slots;
use crate::stack::Stack;
use forkd_protocol::disk::BLOCK_SIZE;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const BLOCK: usize = BLOCK_SIZE as usize;

/// The layer that a disk writes.
#[derive(Debug)]
pub struct Active {
    pub layer: Arc<Layer>,
    pub journal: Journal,
    pub slots: Slots,
}

/// A layer of this disk below the active one.
#[derive(Debug)]
pub struct Frozen {
    pub layer: Arc<Layer>,
    /// The epoch at which it was begun.
    pub epoch: u64,
    pub blocks: u64,
}

/// The content of a disk that is bound.
#[derive(Debug)]
pub struct Content {
    pub stack: Stack,
    /// How many of its layers were there when the disk was made.
    pub base: usize,
    pub frozen: Vec<Frozen>,
    pub active: Active,
}

impl Content {
    /// Writes whole blocks.
    pub fn write(&mut self, block: u64, bytes: &[u8]) -> Result<()> {
        let mut records = Vec::new();
        let done = self.write_data(block, bytes, &mut records);
        let done = done.and_then(|()| match records.is_empty() {
            true => Ok(()),
            false => self.active.journal.append(&records),
        });
        if let Err(error) = done {
            for Record { slot, blocks, .. } in records {
                self.active.slots.give_back(slot.expect("written"), blocks.into());
            }
            return Err(error);
        }
        for Record { block, blocks, slot } in records {
            let place = Place {
                layer: self.active.layer.number,
                slot: slot.expect("written"),
            };
            let blocks = blocks.into();
            self.stack.map.set(Extent { block, blocks, place });
        }
        Ok(())
    }

    /// Writes the data of blocks: in place, or to new slots, which it adds to `records`.
    fn write_data(&mut self, mut block: u64, mut bytes: &[u8], records: &mut Vec<Record>) -> Result<()> {
        while !bytes.is_empty() {
            let (own, blocks) = self.own_or_other(block, (bytes.len() / BLOCK) as u64);
            let (slot, blocks) = match own {
                Some(slot) => (slot, blocks),
                None => {
                    let (slot, got) = self.active.slots.take(blocks);
                    records.push(Record {
                        block,
                        blocks: got as u32,
                        slot: Some(slot),
                    });
                    (slot, got)
                }
            };
            let (part, rest) = bytes.split_at(blocks as usize * BLOCK);
            let written = self.active.layer.data.write_all_at(part, slot * BLOCK_SIZE);
            written.step(|| format!("writing layer {}", self.active.layer.name()))?;
            (block, bytes) = (block + blocks, rest);
        }
        Ok(())
    }

    /// The longest part from `block` on that is in consecutive slots of the active layer, with the first slot; or that is not in it.
    fn own_or_other(&self, block: u64, max: u64) -> (Option<u64>, u64) {
        let own = self.active.layer.number;
        let first = self.stack.map.run(block, max);
        if let Some(place) = first.place.filter(|place| place.layer == own) {
            return (Some(place.slot), first.blocks);
        }
        let mut blocks = first.blocks;
        while blocks < max {
            let next = self.stack.map.run(block + blocks, max - blocks);
            if next.place.is_some_and(|place| place.layer == own) {
                break;
            }
            blocks += next.blocks;
        }
        (None, blocks)
    }

    /// Makes blocks zeros, and frees their slots.
    pub fn clear(&mut self, blocks: Range<u64>) -> Result<()> {
        let (mut records, mut freed) = (Vec::new(), Vec::new());
        let mut block = blocks.start;
        while block < blocks.end {
            let run = self.stack.map.run(block, blocks.end - block);
            if let Some(place) = run.place {
                records.push(Record {
                    block,
                    blocks: run.blocks as u32,
                    slot: None,
                });
                if place.layer == self.active.layer.number {
                    freed.push((place.slot, run.blocks));
                }
            }
            block += run.blocks;
        }
        if records.is_empty() {
            return Ok(());
        }
        self.active.journal.append(&merged(records))?;
        self.stack.map.clear(blocks);
        for (slot, count) in freed {
            self.active.slots.give_back(slot, count);
        }
        Ok(())
    }
}

/// Joins records of zeros that touch.
fn merged(records: Vec<Record>) -> Vec<Record> {
    let mut joined: Vec<Record> = Vec::with_capacity(records.len());
    for record in records {
        match joined.last_mut() {
            Some(last) if last.block + u64::from(last.blocks) == record.block => last.blocks += record.blocks,
            _ => joined.push(record),
        }
    }
    joined
}
