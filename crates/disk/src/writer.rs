//! Whole disks as files: layer files that are complete at once, and raw images.

use crate::error::{DiskError, Result, Step};
use crate::journal::ZEROS_LAYER;
use crate::layer_file::{self, name_of};
use crate::map::{Extent, Map, Place};
use crate::stack::Stack;
use forkd_linux_sys::sparse;
use forkd_protocol::Blob;
use forkd_protocol::disk::BLOCK_SIZE;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const BLOCK: usize = BLOCK_SIZE as usize;
/// Images are read this many bytes at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A layer file in the making. Its path is removed at the end, so a finished file must have been linked elsewhere.
#[derive(Debug)]
pub struct LayerWriter {
    path: PathBuf,
    file: File,
    slots: u64,
    map: Map,
}

impl Drop for LayerWriter {
    fn drop(&mut self) {
        // A failure is harmless: the next server removes the file.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl LayerWriter {
    pub fn new(path: PathBuf) -> Result<LayerWriter> {
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        Ok(LayerWriter {
            file: file.step(|| format!("making {}", path.display()))?,
            path,
            slots: 0,
            map: Map::default(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds whole blocks, the first of which is `block`. Blocks of zeros are left out.
    pub fn put(&mut self, block: u64, bytes: &[u8]) -> Result<()> {
        for (index, content) in content_runs(bytes) {
            self.file
                .write_all_at(content, self.slots * BLOCK_SIZE)
                .step(|| format!("writing {}", self.path.display()))?;
            let blocks = (content.len() / BLOCK) as u64;
            let place = Place {
                layer: ZEROS_LAYER + 1,
                slot: self.slots,
            };
            self.map.set(Extent {
                block: block + index,
                blocks,
                place,
            });
            self.slots += blocks;
        }
        Ok(())
    }

    /// Adds the content of a raw image, which may be smaller than the disk.
    pub fn put_image(&mut self, path: &Path, blocks: u64) -> Result<()> {
        let reading = || format!("reading {}", path.display());
        let image = File::open(path).step(reading)?;
        let size = image.metadata().step(reading)?.len();
        if size > blocks * BLOCK_SIZE {
            let message = format!(
                "{} has {size} bytes, more than the {} of the disk",
                path.display(),
                blocks * BLOCK_SIZE
            );
            return Err(DiskError::bad_request(message));
        }
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut done = 0;
        for range in sparse::data_ranges(&image, size).step(reading)? {
            let mut at = done.max(range.start / BLOCK_SIZE * BLOCK_SIZE);
            while at < range.end {
                let part = (size - at).min(CHUNK_BYTES as u64) as usize;
                image.read_exact_at(&mut buffer[..part], at).step(reading)?;
                let whole = part.next_multiple_of(BLOCK);
                buffer[part..whole].fill(0);
                self.put(at / BLOCK_SIZE, &buffer[..whole])?;
                at += whole as u64;
            }
            done = at;
        }
        Ok(())
    }

    /// Writes the index, and waits until the file is on disk.
    pub fn finish(&self, blocks: u64) -> Result<Blob> {
        layer_file::finish(&self.file, blocks, self.slots, &self.map)
    }
}

/// Writes what a stack holds to a new file of `blocks` blocks, zeros left out.
pub fn export(stack: &Stack, blocks: u64, path: &Path) -> Result<()> {
    let writing = || format!("writing {}", path.display());
    let file = File::create_new(path).step(|| format!("making {}", path.display()))?;
    file.set_len(blocks * BLOCK_SIZE).step(writing)?;
    stack.visit(|block, bytes| {
        for (index, content) in content_runs(bytes) {
            file.write_all_at(content, (block + index) * BLOCK_SIZE).step(writing)?;
        }
        Ok(())
    })
}

/// The digest of what a stack holds, whatever its layers are, and the number of blocks that are not zeros.
pub fn digest(stack: &Stack) -> Result<(String, u64)> {
    let (mut hash, mut blocks) = (Sha256::new(), 0);
    stack.visit(|first, bytes| {
        for (index, content) in content_runs(bytes) {
            for (block, bytes) in (first + index..).zip(content.chunks(BLOCK)) {
                hash.update(block.to_le_bytes());
                hash.update(bytes);
                blocks += 1;
            }
        }
        Ok(())
    })?;
    Ok((name_of(hash), blocks))
}

/// The runs of blocks that are not zeros, each with the index of its first block.
fn content_runs(bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let is_content = |index: &usize| !is_zeros(&bytes[index * BLOCK..(index + 1) * BLOCK]);
        let end = bytes.len() / BLOCK;
        let start = (at..end).find(is_content)?;
        at = (start..end).find(|index| !is_content(index)).unwrap_or(end);
        Some((start as u64, &bytes[start * BLOCK..at * BLOCK]))
    })
}

fn is_zeros(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}
