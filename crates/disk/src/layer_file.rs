//! A layer in the store: blocks, and an index behind them.
//!
//! ```text
//! bytes 0..        the slots, 4096 bytes each; the content of a slot that the index does not name means nothing
//! then             24 bytes per extent: first block (8), number of blocks (8), first slot (8); ascending, not overlapping.
//!                  A first slot of all ones: the blocks are zeros, whatever is below.
//! the last 64 bytes:
//!   0..8           magic "FKDDISK\0"
//!   8..12          version, 1
//!   12..16         CRC-32 of the extents
//!   16..24         the disk's size in blocks
//!   24..32         number of slots
//!   32..40         number of extents
//!   40..60         zeros
//!   60..64         CRC-32 of the bytes before
//! ```
//! All numbers are little-endian. The index comes last, so that a layer that was written block by block becomes a file of the store
//! without a copy. The file is named by the SHA-256 of all its bytes. A server that opens a layer checks its index at once, and the digest in
//! the background.

use crate::error::{DiskError, Result, Step};
use crate::journal::ZEROS_LAYER;
use crate::map::{BLOCKS_MAX, Extent, Map, Place, SLOTS_MAX};
use forkd_protocol::Blob;
use forkd_protocol::disk::BLOCK_SIZE;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

const MAGIC: &[u8; 8] = b"FKDDISK\0";
const VERSION: u32 = 1;
const FOOTER_BYTES: usize = 64;
const EXTENT_BYTES: usize = 24;
const ZEROS: u64 = u64::MAX;
/// Files are read and written this many bytes at a time.
const CHUNK_BYTES: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Footer {
    extents_crc: u32,
    blocks: u64,
    slots: u64,
    extents: u64,
}

/// The index of a layer.
#[derive(Debug)]
pub struct Index {
    /// The disk's size in blocks.
    pub blocks: u64,
    /// The slots of its file.
    pub slots: u64,
    /// The layer's blocks.
    pub map: Map,
}

impl Index {
    /// Calls `visit` with the first slot and the number of all slots that have no block.
    pub fn unused(&self, mut visit: impl FnMut(u64, u64)) {
        let mut used = Vec::new();
        self.map.extents(|extent| {
            if extent.place.layer != ZEROS_LAYER {
                used.push((extent.place.slot, extent.blocks));
            }
        });
        used.sort_unstable();
        let mut at = 0;
        for (slot, count) in used {
            if slot > at {
                visit(at, slot - at);
            }
            at = slot + count;
        }
    }
}

/// Appends the index to a file with `slots` slots, waits until all of it is on disk, and returns its digest and size.
pub fn finish(file: &File, blocks: u64, slots: u64, map: &Map) -> Result<Blob> {
    let writing = || "writing the index of a layer".to_owned();
    let mut out = BufWriter::with_capacity(CHUNK_BYTES, file);
    out.seek(SeekFrom::Start(slots * BLOCK_SIZE)).step(writing)?;
    let mut crc = crc32fast::Hasher::new();
    let mut extents = 0;
    let mut written = Ok(());
    map.extents(|extent| {
        let bytes = extent_bytes(extent);
        crc.update(&bytes);
        extents += 1;
        if written.is_ok() {
            written = out.write_all(&bytes);
        }
    });
    written.step(writing)?;
    let footer = Footer {
        extents_crc: crc.finalize(),
        blocks,
        slots,
        extents,
    };
    out.write_all(&footer_bytes(footer)).step(writing)?;
    out.flush().step(writing)?;
    drop(out);
    let size = slots * BLOCK_SIZE + extents * EXTENT_BYTES as u64 + FOOTER_BYTES as u64;
    // An earlier attempt may have been longer.
    file.set_len(size).step(writing)?;
    let blob = digest(file, size)?;
    file.sync_all().step(|| "syncing a layer".into())?;
    Ok(blob)
}

/// Reads the index of a layer file. Slots are those of the layer `number` of this process. Fails with `CorruptLayer` if it is none.
pub fn read(file: &File, name: &str, number: u32) -> Result<Index> {
    let reading = || format!("reading the index of {name}");
    let corrupt = |what: &str| DiskError::corrupt(format!("{name} is no layer of a disk: {what}"));
    let size = file.metadata().step(reading)?.len();
    let footer_at = size
        .checked_sub(FOOTER_BYTES as u64)
        .ok_or_else(|| corrupt("it is too short"))?;
    let mut bytes = [0; FOOTER_BYTES];
    file.read_exact_at(&mut bytes, footer_at).step(reading)?;
    let footer = parse_footer(&bytes).ok_or_else(|| corrupt("its last bytes are not those of a layer"))?;
    let is_whole = footer.slots < SLOTS_MAX
        && footer.extents <= footer.blocks
        && footer.slots * BLOCK_SIZE + footer.extents * EXTENT_BYTES as u64 == footer_at;
    if !is_whole {
        return Err(corrupt("its size is not what its index says"));
    }
    let mut map = Map::default();
    let mut crc = crc32fast::Hasher::new();
    let mut free_from = 0;
    let mut chunk = vec![0; EXTENT_BYTES * (CHUNK_BYTES / EXTENT_BYTES)];
    let mut left = footer.extents as usize * EXTENT_BYTES;
    while left > 0 {
        let part = left.min(chunk.len());
        let at = footer_at - left as u64;
        file.read_exact_at(&mut chunk[..part], at).step(reading)?;
        crc.update(&chunk[..part]);
        for bytes in chunk[..part].as_chunks::<EXTENT_BYTES>().0 {
            let extent = parse_extent(bytes, &footer, number).filter(|extent| extent.block >= free_from);
            let extent = extent.ok_or_else(|| corrupt("its index has blocks that cannot be"))?;
            free_from = extent.block + extent.blocks;
            map.set(extent);
        }
        left -= part;
    }
    if crc.finalize() != footer.extents_crc {
        return Err(corrupt("its index is damaged"));
    }
    Ok(Index {
        blocks: footer.blocks,
        slots: footer.slots,
        map,
    })
}

/// The digest of a file's first `size` bytes.
pub fn digest(file: &File, size: u64) -> Result<Blob> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    for at in (0..size).step_by(CHUNK_BYTES) {
        let part = (size - at).min(CHUNK_BYTES as u64) as usize;
        file.read_exact_at(&mut chunk[..part], at)
            .step(|| "reading a layer".into())?;
        hash.update(&chunk[..part]);
    }
    Ok(Blob {
        digest: name_of(hash),
        size,
    })
}

/// The name that a digest gives: `sha256:` and 64 hexadecimal digits.
pub fn name_of(hash: Sha256) -> String {
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn extent_bytes(extent: Extent) -> [u8; EXTENT_BYTES] {
    let is_zeros = extent.place.layer == ZEROS_LAYER;
    let slot = if is_zeros { ZEROS } else { extent.place.slot };
    let mut bytes = [0; EXTENT_BYTES];
    for (place, number) in bytes.chunks_exact_mut(8).zip([extent.block, extent.blocks, slot]) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

fn parse_extent(bytes: &[u8; EXTENT_BYTES], footer: &Footer, number: u32) -> Option<Extent> {
    let [block, blocks, slot] = [0, 8, 16].map(|at| u64_at(bytes, at));
    let is_inside = |start: u64, end: u64| start.checked_add(blocks).is_some_and(|last| last <= end);
    if blocks == 0 || !is_inside(block, footer.blocks) {
        return None;
    }
    let place = match slot {
        ZEROS => Place {
            layer: ZEROS_LAYER,
            slot: block,
        },
        slot if is_inside(slot, footer.slots) => Place { layer: number, slot },
        _ => return None,
    };
    Some(Extent { block, blocks, place })
}

fn footer_bytes(footer: Footer) -> [u8; FOOTER_BYTES] {
    let mut bytes = [0; FOOTER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&footer.extents_crc.to_le_bytes());
    for (place, number) in bytes[16..40]
        .chunks_exact_mut(8)
        .zip([footer.blocks, footer.slots, footer.extents])
    {
        place.copy_from_slice(&number.to_le_bytes());
    }
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn parse_footer(bytes: &[u8; FOOTER_BYTES]) -> Option<Footer> {
    let footer = Footer {
        extents_crc: u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes")),
        blocks: u64_at(bytes, 16),
        slots: u64_at(bytes, 24),
        extents: u64_at(bytes, 32),
    };
    (footer.blocks <= BLOCKS_MAX && footer_bytes(footer) == *bytes).then_some(footer)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;
    use proptest::prelude::*;

    fn sample(scratch: &Scratch) -> (File, Blob) {
        let path = scratch.path("layer");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .expect("a file");
        file.write_all_at(&[7; 3 * BLOCK_SIZE as usize], 0).expect("written");
        let mut map = Map::default();
        for (block, blocks, layer, slot) in [(5, 2, 2, 1), (7, 1, ZEROS_LAYER, 7), (9, 1, 2, 0)] {
            let place = Place { layer, slot };
            map.set(Extent { block, blocks, place });
        }
        let blob = finish(&file, 10, 3, &map).expect("finished");
        (file, blob)
    }

    #[test]
    fn an_index_is_read_as_it_was_written() {
        let scratch = Scratch::new();
        let (file, blob) = sample(&scratch);
        assert_eq!(
            blob.size,
            3 * BLOCK_SIZE + 3 * EXTENT_BYTES as u64 + FOOTER_BYTES as u64
        );
        assert_eq!(
            blob.digest,
            forkd_layers::digest_of(&std::fs::read(scratch.path("layer")).expect("read"))
        );
        let index = read(&file, "a layer", 9).expect("an index");
        assert_eq!((index.blocks, index.slots), (10, 3));
        let place = |block| index.map.run(block, 1).place;
        assert_eq!(place(4), None);
        assert_eq!(place(6), Some(Place { layer: 9, slot: 2 }));
        assert_eq!(
            place(7),
            Some(Place {
                layer: ZEROS_LAYER,
                slot: 7
            })
        );
        assert_eq!(place(9), Some(Place { layer: 9, slot: 0 }));
        // Finishing a layer again after an interruption gives the same file.
        assert_eq!(
            finish(&file, 10, 3, &read(&file, "a layer", 2).expect("an index").map).expect("finished"),
            blob
        );
    }

    proptest! {
        #[test]
        fn an_index_that_is_damaged_is_refused(at in 0..(3 * EXTENT_BYTES + FOOTER_BYTES), bit in 0..8u32, cut in 0..2u64) {
            let scratch = Scratch::new();
            let (file, blob) = sample(&scratch);
            let mut bytes = std::fs::read(scratch.path("layer")).expect("read");
            bytes[3 * BLOCK_SIZE as usize + at] ^= 1 << bit;
            file.write_all_at(&bytes, 0).expect("written");
            file.set_len(blob.size - cut).expect("cut");
            let error = read(&file, "a layer", 2).expect_err("damaged");
            prop_assert_eq!(error.code, forkd_protocol::FaultCode::CorruptLayer);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(tail in proptest::collection::vec(any::<u8>(), 0..300), blocks in any::<u64>(), slots in any::<u64>(), extents in 0..9u64) {
            let scratch = Scratch::new();
            let path = scratch.path("layer");
            let footer = Footer { extents_crc: crc32fast::hash(&tail), blocks, slots, extents };
            std::fs::write(&path, [&tail[..], &footer_bytes(footer)].concat()).expect("written");
            // Bytes may be right by chance only if they name no slot.
            if let Ok(index) = read(&File::open(path).expect("opened"), "bytes", 2) {
                prop_assert_eq!(index.slots, 0);
            }
        }
    }
}
