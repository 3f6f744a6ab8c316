//! The journal of a layer that is being written: which block is in which slot of its data file.
//!
//! ```text
//! bytes 0..8     magic "FKDDJRNL"
//! bytes 8..12    version, 1
//! bytes 12..16   zeros
//! bytes 16..24   number of the layer
//! bytes 24..32   serial number of the disk that writes it
//! bytes 32..40   the disk's epoch when the layer was begun
//! bytes 40..48   the disk's size in blocks
//! bytes 48..60   zeros
//! bytes 60..64   CRC-32 of the bytes before
//! then records of 32 bytes:
//!   0..8         first block
//!   8..16        first slot; all ones: the blocks are zeros
//!   16..20       number of blocks
//!   20..28       place of the record in the journal, counted from 0
//!   28..32       CRC-32 of the layer's number and the bytes before
//! ```
//! All numbers are little-endian. A later record overrides earlier ones. A record is appended after its data, and before the reply.
//! The first record that is not right ends the journal: nobody has been told that it was written.

use crate::error::{DiskError, Result, Step};
use crate::map::{BLOCKS_MAX, Extent, Map, Place, SLOTS_MAX};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"FKDDJRNL";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
const RECORD_BYTES: usize = 32;
const ZEROS: u64 = u64::MAX;
/// Records are read this many bytes at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// The number of a layer, for [`Place`], that stands for blocks that are zeros whatever is below. Their slot is the block itself.
pub const ZEROS_LAYER: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The number of the layer, which is also in the names of its files.
    pub layer: u64,
    /// The serial number of the disk that writes it.
    pub disk: u64,
    pub epoch: u64,
    pub blocks: u64,
}

/// Consecutive blocks that were written to consecutive slots, or that became zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub block: u64,
    pub blocks: u32,
    pub slot: Option<u64>,
}

#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    header: Header,
    records: u64,
    /// Records that were there when the journal was last rewritten.
    records_at_rewrite: u64,
}

impl Journal {
    /// Makes the file of a journal that will be begun later, so that its header needs no new space.
    pub fn prepare(path: &Path) -> Result<File> {
        let file = File::options().read(true).write(true).create_new(true).open(path);
        let file = file.step(|| format!("making {}", path.display()))?;
        file.write_all_at(&[0; HEADER_BYTES], 0)
            .step(|| format!("writing {}", path.display()))?;
        Ok(file)
    }

    /// Begins a journal in a prepared file.
    pub fn begin(path: PathBuf, file: File, header: Header) -> Result<Journal> {
        let mut journal = Journal {
            path,
            file,
            header,
            records: 0,
            records_at_rewrite: 0,
        };
        journal.set_epoch(header.epoch)?;
        Ok(journal)
    }

    /// Reads the header of a journal. `None` if the file was prepared and not begun.
    pub fn header_of(path: &Path) -> std::io::Result<Option<Header>> {
        let mut bytes = [0; HEADER_BYTES];
        let file = File::open(path)?;
        Ok(file
            .read_exact_at(&mut bytes, 0)
            .ok()
            .and_then(|()| parse_header(&bytes)))
    }

    /// Reads a journal, and what it says about the layer's blocks. Slots are those of the layer `number` of this process. `None` if the
    /// file was prepared and not begun.
    pub fn read(path: &Path, number: u32) -> Result<Option<(Journal, Map)>> {
        let reading = || format!("reading {}", path.display());
        let file = File::options().read(true).write(true).open(path).step(reading)?;
        let mut bytes = [0; HEADER_BYTES];
        let Some(header) = file
            .read_exact_at(&mut bytes, 0)
            .ok()
            .and_then(|()| parse_header(&bytes))
        else {
            return Ok(None);
        };
        let mut map = Map::default();
        let mut records = 0;
        let mut chunk = vec![0; CHUNK_BYTES];
        'file: loop {
            let got = read_up_to(&file, &mut chunk, offset_of(records)).step(reading)?;
            let (whole, _) = chunk[..got].as_chunks::<RECORD_BYTES>();
            for bytes in whole {
                let Some(record) = parse_record(bytes, header, records) else {
                    break 'file;
                };
                apply(&mut map, record, number);
                records += 1;
            }
            if got < CHUNK_BYTES {
                break;
            }
        }
        let journal = Journal {
            path: path.to_path_buf(),
            file,
            header,
            records,
            records_at_rewrite: 0,
        };
        Ok(Some((journal, map)))
    }

    pub fn header(&self) -> Header {
        self.header
    }

    /// True if the layer has nothing yet.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Changes the epoch at which the layer began: right as long as it has no block, or no other server knows the former one.
    pub fn set_epoch(&mut self, epoch: u64) -> Result<()> {
        let header = Header { epoch, ..self.header };
        self.file
            .write_all_at(&header_bytes(header), 0)
            .step(|| format!("writing {}", self.path.display()))?;
        self.header = header;
        Ok(())
    }

    /// Appends records: all, or none if it fails.
    pub fn append(&mut self, records: &[Record]) -> Result<()> {
        let numbered = (self.records..).zip(records);
        let bytes: Vec<u8> = numbered
            .flat_map(|(place, record)| record_bytes(*record, self.header, place))
            .collect();
        let end = offset_of(self.records);
        let written = self.file.write_all_at(&bytes, end);
        if written.is_err() {
            // A part may have been written. The slots that it names are going to be used for something else.
            self.file
                .set_len(end)
                .step(|| format!("cutting {}", self.path.display()))?;
        }
        written.step(|| format!("writing {}", self.path.display()))?;
        self.records += records.len() as u64;
        Ok(())
    }

    /// Removes what an interrupted append has left behind the last record.
    pub fn cut(&self) -> Result<()> {
        let end = offset_of(self.records);
        self.file
            .set_len(end)
            .step(|| format!("cutting {}", self.path.display()))
    }

    /// Replaces a journal that has grown to several times its last size by one that says the same in fewer records.
    pub fn rewrite_if_long(&mut self, records_min: u64) -> Result<()> {
        if self.records < records_min.max(4 * self.records_at_rewrite) {
            return Ok(());
        }
        let (_, map) = Journal::read(&self.path, ZEROS_LAYER + 1)?
            .ok_or_else(|| DiskError::corrupt(format!("{} has lost its header", self.path.display())))?;
        let mut records = Vec::new();
        map.extents(|extent| records.push(record_of(extent)));
        let path = self.path.with_extension("new");
        // An earlier attempt may have been interrupted.
        let _ = std::fs::remove_file(&path);
        let mut shorter = Journal::begin(path.clone(), Journal::prepare(&path)?, self.header)?;
        shorter.append(&records)?;
        std::fs::rename(&path, &self.path).step(|| format!("replacing {}", self.path.display()))?;
        shorter.path.clone_from(&self.path);
        shorter.records_at_rewrite = shorter.records;
        *self = shorter;
        Ok(())
    }
}

fn record_of(extent: Extent) -> Record {
    Record {
        block: extent.block,
        blocks: u32::try_from(extent.blocks).expect("no disk has that many blocks"),
        slot: (extent.place.layer != ZEROS_LAYER).then_some(extent.place.slot),
    }
}

fn apply(map: &mut Map, record: Record, number: u32) {
    let place = match record.slot {
        Some(slot) => Place { layer: number, slot },
        None => Place {
            layer: ZEROS_LAYER,
            slot: record.block,
        },
    };
    map.set(Extent {
        block: record.block,
        blocks: record.blocks.into(),
        place,
    });
}

fn offset_of(record: u64) -> u64 {
    HEADER_BYTES as u64 + record * RECORD_BYTES as u64
}

fn header_bytes(header: Header) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let numbers = [header.layer, header.disk, header.epoch, header.blocks];
    for (place, number) in bytes[16..48].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn parse_header(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
    let header = Header {
        layer: u64_at(bytes, 16),
        disk: u64_at(bytes, 24),
        epoch: u64_at(bytes, 32),
        blocks: u64_at(bytes, 40),
    };
    (header.blocks <= BLOCKS_MAX && header_bytes(header) == *bytes).then_some(header)
}

fn record_bytes(record: Record, header: Header, place: u64) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..8].copy_from_slice(&record.block.to_le_bytes());
    bytes[8..16].copy_from_slice(&record.slot.unwrap_or(ZEROS).to_le_bytes());
    bytes[16..20].copy_from_slice(&record.blocks.to_le_bytes());
    bytes[20..28].copy_from_slice(&place.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header.layer.to_le_bytes());
    crc.update(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.finalize().to_le_bytes());
    bytes
}

fn parse_record(bytes: &[u8; RECORD_BYTES], header: Header, place: u64) -> Option<Record> {
    let slot = u64_at(bytes, 8);
    let record = Record {
        block: u64_at(bytes, 0),
        blocks: u32::from_le_bytes(bytes[16..20].try_into().expect("four bytes")),
        slot: (slot != ZEROS).then_some(slot),
    };
    let end = record.block.checked_add(record.blocks.into());
    let is_right = record_bytes(record, header, place) == *bytes
        && end.is_some_and(|end| end <= header.blocks)
        && record.slot.is_none_or(|slot| slot < SLOTS_MAX - BLOCKS_MAX);
    is_right.then_some(record)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], at + got as u64) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests;
