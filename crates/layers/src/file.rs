//! A layer on disk: packed pages and an index.
//!
//! ```text
//! bytes 0..8     magic "FKDLAYER"
//! bytes 8..12    version, 1
//! bytes 12..16   flags: bit 0, the layer is a base (the bottom of a stack)
//! bytes 16..24   the stack's length in bytes
//! bytes 24..32   number of extents
//! bytes 32..40   number of pages
//! then           16 bytes per extent: first page (8), number of pages (8); ascending, not overlapping
//! then           zeros up to a multiple of 4096
//! then           the pages, in the order of the extents
//! ```
//! All numbers are little-endian. The file is named by the SHA-256 of all its bytes, which is checked before the first
//! page is used. Holes mean nothing: a tool may make the file sparse or dense.

use crate::blob::Blob;
use crate::error::{LayerError, LayerErrorKind, Result, Step};
use crate::host_memory;
use crate::layer::{Durability, Extent, Layer};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::{self, Mapping};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};

const MAGIC: &[u8; 8] = b"FKDLAYER";
const VERSION: u32 = 1;
const FLAG_BASE: u32 = 1;
const HEADER_BYTES: usize = 40;
const EXTENT_BYTES: usize = 16;
/// The largest length of a stack, in bytes.
const LENGTH_MAX: u64 = 1 << 42;
/// Pages are read and written this many bytes at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Writes bytes to a file and into a digest.
struct Hashing<'a, W: Write> {
    out: &'a mut W,
    digest: Sha256,
    size: u64,
}

impl<W: Write> Hashing<'_, W> {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.out.write_all(bytes)?;
        self.digest.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }
}

/// Writes `layer` to `out`, and returns its digest and size. Fails with `Cancelled` once `cancelled` returns true.
pub fn write(layer: &Layer, out: &mut impl Write, cancelled: impl Fn() -> bool) -> Result<Blob> {
    let mut out = Hashing {
        out,
        digest: Sha256::new(),
        size: 0,
    };
    out.put(&head(layer)).step(|| "writing a layer's index".into())?;
    let mut buffer = Vec::with_capacity(CHUNK_BYTES);
    for extent in &layer.extents {
        for piece in layer.content(extent.slot, extent.pages).chunks(CHUNK_BYTES) {
            if buffer.len() + piece.len() > CHUNK_BYTES {
                if cancelled() {
                    return Err(LayerError::new(
                        LayerErrorKind::Cancelled,
                        "the layer was no longer wanted while it was written",
                    ));
                }
                out.put(&buffer).step(|| "writing a layer's pages".into())?;
                buffer.clear();
            }
            buffer.extend_from_slice(piece);
        }
    }
    out.put(&buffer).step(|| "writing a layer's pages".into())?;
    Ok(Blob {
        digest: name(out.digest),
        size: out.size,
    })
}

/// Copies all of `input` to `out`, and returns the digest and size of what was copied.
pub fn copy(input: &mut impl Read, out: &mut impl Write) -> std::io::Result<Blob> {
    let mut out = Hashing {
        out,
        digest: Sha256::new(),
        size: 0,
    };
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match input.read(&mut buffer)? {
            0 => break,
            count => out.put(&buffer[..count])?,
        }
    }
    Ok(Blob {
        digest: name(out.digest),
        size: out.size,
    })
}

fn name(digest: Sha256) -> String {
    let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The digest of `bytes`: `sha256:` and 64 hexadecimal digits.
pub fn digest_of(bytes: &[u8]) -> String {
    name(Sha256::new_with_prefix(bytes))
}

fn head(layer: &Layer) -> Vec<u8> {
    let flags = if layer.is_base { FLAG_BASE } else { 0 };
    let mut head = Vec::with_capacity(head_bytes(layer.extents.len()));
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&flags.to_le_bytes());
    for number in [layer.length, layer.extents.len() as u64, layer.pages()] {
        head.extend_from_slice(&number.to_le_bytes());
    }
    for extent in &layer.extents {
        head.extend_from_slice(&extent.page.to_le_bytes());
        head.extend_from_slice(&extent.pages.to_le_bytes());
    }
    head.resize(head_bytes(layer.extents.len()), 0);
    head
}

/// How many pages a layer's file has before the first page of content.
pub fn head_pages(layer: &Layer) -> u64 {
    (head_bytes(layer.extents.len()) / PAGE_SIZE) as u64
}

fn head_bytes(extents: usize) -> usize {
    (HEADER_BYTES + extents * EXTENT_BYTES).next_multiple_of(PAGE_SIZE)
}

/// The fixed part of a layer file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    is_base: bool,
    length: u64,
    extents: u64,
    pages: u64,
}

/// Checks the fixed part, before memory is allocated for the rest.
fn parse_header(bytes: &[u8; HEADER_BYTES]) -> std::result::Result<Header, String> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    if &bytes[..8] != MAGIC {
        return Err("it is not a memory layer".into());
    }
    if word(8) != VERSION {
        return Err(format!(
            "its format is version {}, this program reads version {VERSION}",
            word(8)
        ));
    }
    let header = Header {
        is_base: word(12) & FLAG_BASE != 0,
        length: long(16),
        extents: long(24),
        pages: long(32),
    };
    let pages_max = header.length / PAGE_SIZE as u64;
    if header.length > LENGTH_MAX || header.pages > pages_max || header.extents > header.pages {
        return Err(format!("its header is impossible: {header:?}"));
    }
    Ok(header)
}

fn parse_extents(header: Header, bytes: &[u8]) -> std::result::Result<Vec<Extent>, String> {
    let mut slot = 0;
    let mut end = 0;
    let mut extents = Vec::with_capacity(header.extents as usize);
    for entry in bytes.chunks_exact(EXTENT_BYTES).take(header.extents as usize) {
        let page = u64::from_le_bytes(entry[..8].try_into().expect("eight bytes"));
        let pages = u64::from_le_bytes(entry[8..].try_into().expect("eight bytes"));
        let next = page
            .checked_add(pages)
            .filter(|next| page >= end && pages > 0 && *next <= header.length / PAGE_SIZE as u64);
        end = next.ok_or_else(|| format!("its extent of {pages} pages at page {page} is impossible"))?;
        extents.push(Extent {
            page,
            slot: if header.is_base { page } else { slot },
            pages,
        });
        slot += pages;
    }
    if slot == header.pages {
        Ok(extents)
    } else {
        Err(format!(
            "its extents hold {slot} pages, its header says {}",
            header.pages
        ))
    }
}

/// Reads the layer `digest` from `file` into a sealed memfd.
///
/// Fails with `Damaged` unless the bytes have that digest, and with `OutOfMemory` if the host has no memory for the layer.
pub fn read(file: &mut File, digest: &str) -> Result<Layer> {
    let corrupt = |why: String| LayerError::new(LayerErrorKind::Damaged, format!("layer {digest} is damaged: {why}"));
    let mut input = Verified {
        file,
        digest: Sha256::new(),
        size: 0,
        name: digest,
    };
    let mut fixed = [0u8; HEADER_BYTES];
    input.fill(&mut fixed)?;
    let header = parse_header(&fixed).map_err(corrupt)?;
    let wanted = head_bytes(header.extents as usize) as u64 + header.pages * PAGE_SIZE as u64;
    let length = input
        .file
        .metadata()
        .step(|| format!("looking at layer {digest}"))?
        .len();
    if length != wanted {
        return Err(corrupt(format!("it has {length} bytes, its header says {wanted}")));
    }
    let mut rest = vec![0u8; head_bytes(header.extents as usize) - HEADER_BYTES];
    input.fill(&mut rest)?;
    let extents = parse_extents(header, &rest).map_err(corrupt)?;
    host_memory::require(header.pages, &format!("layer {digest}"))?;
    let size = if header.is_base {
        header.length
    } else {
        header.pages * PAGE_SIZE as u64
    };
    let memory = memfd::create(c"forkd-layer", size).step(|| format!("making room for layer {digest}"))?;
    let target = Mapping::read_write(&memory, size as usize).step(|| format!("mapping layer {digest}"))?;
    let mut buffer = vec![0u8; CHUNK_BYTES];
    for extent in &extents {
        let (mut offset, mut left) = (extent.slot as usize * PAGE_SIZE, extent.pages as usize * PAGE_SIZE);
        while left > 0 {
            let chunk = &mut buffer[..left.min(CHUNK_BYTES)];
            input.fill(chunk)?;
            target.write(offset, chunk);
            (offset, left) = (offset + chunk.len(), left - chunk.len());
        }
    }
    let blob = input.end()?;
    drop(target);
    Layer::seal(
        memory,
        header.length,
        header.is_base,
        extents,
        Durability::Durable(blob),
    )
}

/// Reads a file, and checks its digest at the end.
struct Verified<'a> {
    file: &'a mut File,
    digest: Sha256,
    size: u64,
    name: &'a str,
}

impl Verified<'_> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact(buffer).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => LayerError::new(
                LayerErrorKind::Damaged,
                format!("layer {} is cut short after {} bytes", self.name, self.size),
            ),
            _ => LayerError::new(LayerErrorKind::Io, format!("reading layer {}: {error}", self.name)),
        })?;
        self.digest.update(&*buffer);
        self.size += buffer.len() as u64;
        Ok(())
    }

    fn end(self) -> Result<Blob> {
        let more = self
            .file
            .read(&mut [0u8; 1])
            .step(|| format!("reading layer {}", self.name))?;
        let found = name(self.digest);
        if more == 0 && found == self.name {
            return Ok(Blob {
                digest: found,
                size: self.size,
            });
        }
        let why = if more > 0 {
            "it is longer than it says".into()
        } else {
            format!("its bytes have the digest {found}")
        };
        Err(LayerError::new(
            LayerErrorKind::Damaged,
            format!("layer {} is damaged: {why}", self.name),
        ))
    }
}

#[cfg(test)]
mod tests;
