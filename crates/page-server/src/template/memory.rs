//! A template in a sealed memfd.

use super::{Content, Run, Template, first_of_a_kind};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::maps::{FileId, Mapped};
use forkd_linux_sys::memfd::{self, Mapping};
use forkd_linux_sys::sparse;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

/// Read from a file at a time.
const LOAD_BYTES: usize = 1 << 20;

/// A template that is in memory, in a sealed memfd. Forks that map the memfd privately share its pages.
#[derive(Debug)]
pub struct MemoryTemplate {
    file: File,
    id: FileId,
    identity: String,
    content: Mapping,
    /// Ascending, in pages. The rest are holes, which are not looked at: that would fill them.
    data: Vec<Range<u64>>,
}

impl MemoryTemplate {
    /// Takes over a sealed memfd of whole pages, whose content `identity` names.
    pub fn new(file: File, identity: String) -> io::Result<MemoryTemplate> {
        let bytes = file.metadata()?.len();
        let refused = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        if !memfd::is_sealed(&file) {
            return Err(refused("the memfd is not sealed: a template never changes"));
        }
        if bytes == 0 || !bytes.is_multiple_of(PAGE_SIZE as u64) {
            return Err(refused(
                "a template consists of whole pages of 4096 bytes, one at least",
            ));
        }
        let size = PAGE_SIZE as u64;
        let data = sparse::data_ranges(&file, bytes)?;
        Ok(MemoryTemplate {
            id: FileId::of(&file)?,
            identity,
            content: Mapping::read_only(&file, bytes as usize)?,
            data: data.into_iter().map(|r| r.start / size..r.end.div_ceil(size)).collect(),
            file,
        })
    }

    /// Reads a file into a memfd of its own: from then on the file is not needed. Pages of zeros take no memory.
    pub fn load(path: &Path) -> io::Result<MemoryTemplate> {
        let mut input = File::open(path)?;
        let bytes = input.metadata()?.len();
        let file = memfd::create(c"forkd-template", bytes)?;
        let target = Mapping::read_write(&file, bytes as usize)?;
        let mut buffer = vec![0u8; LOAD_BYTES];
        let mut checksum = crc32fast::Hasher::new();
        let mut at = 0;
        while at < bytes {
            let piece = &mut buffer[..LOAD_BYTES.min((bytes - at) as usize)];
            input.read_exact(piece)?;
            checksum.update(piece);
            for (index, page) in piece.chunks(PAGE_SIZE).enumerate() {
                if page.iter().any(|byte| *byte != 0) {
                    target.write(at as usize + index * PAGE_SIZE, page);
                }
            }
            at += piece.len() as u64;
        }
        drop(target);
        memfd::seal(&file)?;
        MemoryTemplate::new(file, format!("crc32:{:08x}:{bytes}", checksum.finalize()))
    }

    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Template for MemoryTemplate {
    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn pages(&self) -> u64 {
        (self.content.len() / PAGE_SIZE) as u64
    }

    fn run(&self, page: u64, limit: u64) -> Run<'_> {
        let end = (page + limit).min(self.pages());
        let next = self.data.partition_point(|range| range.end <= page);
        match self.data.get(next) {
            Some(range) if range.start <= page => {
                let pages = end.min(range.end) - page;
                let bytes = self
                    .content
                    .bytes(page as usize * PAGE_SIZE, pages as usize * PAGE_SIZE);
                first_of_a_kind(bytes)
            }
            after => Run {
                pages: after.map_or(end, |range| end.min(range.start)) - page,
                content: Content::Zeros,
            },
        }
    }

    fn is_mapped_by(&self, mapped: &Mapped, page: u64) -> bool {
        mapped.private && mapped.file == self.id && mapped.offset == page * PAGE_SIZE as u64
    }
}
