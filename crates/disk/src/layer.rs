//! A layer: blocks in a file, which many disks read.

use crate::error::{DiskError, Result, Step};
use crate::journal::{Journal, ZEROS_LAYER};
use crate::layer_file::{self, Index};
use crate::map::{Map, Place};
use forkd_linux_sys::memfd;
use forkd_protocol::Blob;
use forkd_protocol::disk::BLOCK_SIZE;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The source of a layer's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file of the store, by digest.
    Stored(String),
    /// Files that a disk of this data directory has written, by number.
    Written(u64),
}

#[derive(Debug)]
pub struct Layer {
    /// The layer's number in the maps of this process.
    pub number: u32,
    pub source: Source,
    pub data: File,
    /// True if the layer has a name that the controller knows: it stays until it is dropped.
    pub is_held: AtomicBool,
    /// True if the bytes of the layer are known not to have the digest that names it.
    is_damaged: Arc<AtomicBool>,
    /// The slots of the file that are in use, as far as that is known.
    pub blocks: AtomicU64,
    /// The file of the store, once it is known to be there. The lock also keeps two from writing it.
    pub blob: Mutex<Option<Blob>>,
}

impl Layer {
    pub fn new(number: u32, source: Source, data: File) -> Layer {
        Layer {
            number,
            source,
            data,
            is_held: AtomicBool::new(false),
            is_damaged: Arc::default(),
            blocks: AtomicU64::new(0),
            blob: Mutex::default(),
        }
    }

    /// The name by which the controller knows the layer.
    pub fn name(&self) -> String {
        match &self.source {
            Source::Stored(digest) => digest.clone(),
            Source::Written(number) => format!("disk:{number}"),
        }
    }

    /// Frees the space of slots that nothing uses. Does nothing once the layer has a digest, which is of all its bytes.
    pub fn free_space(&self, slots: &[(u64, u64)]) {
        let blob = self.blob.lock().expect("no panic while held");
        if blob.is_none() {
            slots.iter().for_each(|(slot, count)| self.punch(*slot, *count));
        }
    }

    /// Makes a hole. Only space is at stake: where the file system cannot, the slots keep what they have.
    pub fn punch(&self, slot: u64, count: u64) {
        let _ = memfd::punch_hole(&self.data, slot * BLOCK_SIZE, count * BLOCK_SIZE);
    }

    /// The number of a layer that was written here, which grows with time; zero for a layer of the store.
    pub fn source_number(&self) -> u64 {
        match self.source {
            Source::Stored(_) => 0,
            Source::Written(number) => number,
        }
    }

    /// Fails if the layer is known to be damaged.
    pub fn trust(&self) -> Result<()> {
        if self.is_damaged.load(Ordering::Relaxed) {
            return Err(damaged(&self.name()));
        }
        Ok(())
    }

    /// Fills `buffer` from `slot` on.
    pub fn read(&self, slot: u64, buffer: &mut [u8]) -> Result<()> {
        self.trust()?;
        self.data
            .read_exact_at(buffer, slot * BLOCK_SIZE)
            .step(|| format!("reading layer {}", self.name()))
    }
}

/// The comparison of a layer of the store with its digest. It takes as long as reading all of the layer, so disks use the layer
/// meanwhile. Nothing is read from it any more once it is known to be damaged.
#[derive(Debug)]
pub struct Check {
    digest: String,
    data: File,
    is_damaged: Arc<AtomicBool>,
}

impl Check {
    /// The check of a layer. `None`: it has no digest to be compared with.
    pub fn of(layer: &Layer) -> Option<Check> {
        let Source::Stored(digest) = &layer.source else {
            return None;
        };
        Some(Check {
            digest: digest.clone(),
            data: layer.data.try_clone().ok()?,
            is_damaged: layer.is_damaged.clone(),
        })
    }

    /// Reads the layer.
    pub fn run(self) -> Result<()> {
        let reading = || format!("reading layer {}", self.digest);
        let size = self.data.metadata().step(reading)?.len();
        if layer_file::digest(&self.data, size)?.digest == self.digest {
            return Ok(());
        }
        self.is_damaged.store(true, Ordering::Relaxed);
        Err(damaged(&self.digest))
    }
}

fn damaged(name: &str) -> DiskError {
    DiskError::corrupt(format!(
        "layer {name} is damaged: its bytes are not those of its digest"
    ))
}

/// The files of a layer in the directory of the server.
#[derive(Debug)]
pub struct Files {
    pub data: PathBuf,
    /// The journal, for a layer that was written here.
    pub journal: PathBuf,
}

impl Files {
    pub fn of(dir: &Path, source: &Source) -> Files {
        let stem = match source {
            Source::Stored(digest) => digest.replace(':', "-"),
            Source::Written(number) => number.to_string(),
        };
        Files {
            data: dir.join(format!("{stem}.data")),
            journal: dir.join(format!("{stem}.map")),
        }
    }

    /// Removes the files. A failure is harmless: the next server finds them.
    pub fn remove(&self) {
        // The journal first: data without a journal is removed when the next server starts.
        let _ = std::fs::remove_file(&self.journal);
        let _ = std::fs::remove_file(&self.data);
    }
}

/// Reads which blocks a layer has.
pub fn index(dir: &Path, layer: &Layer) -> Result<Index> {
    match &layer.source {
        Source::Stored(digest) => layer_file::read(&layer.data, digest, layer.number),
        Source::Written(number) => {
            let path = Files::of(dir, &layer.source).journal;
            let missing = || DiskError::corrupt(format!("layer disk:{number} has no journal"));
            let (journal, map) = Journal::read(&path, layer.number)?.ok_or_else(missing)?;
            let mut slots = 0;
            map.extents(|extent| {
                if extent.place.layer != ZEROS_LAYER {
                    slots = slots.max(extent.place.slot + extent.blocks);
                }
            });
            Ok(Index {
                map,
                blocks: journal.header().blocks,
                slots,
            })
        }
    }
}

/// Puts the blocks of a layer over those of `base`.
pub fn put_over(base: &mut Map, layer: &Map) {
    layer.extents(|extent| match extent.place {
        Place { layer: ZEROS_LAYER, .. } => base.clear(extent.block..extent.block + extent.blocks),
        _ => base.set(extent),
    });
}
