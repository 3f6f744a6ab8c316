//! The order in which a fork asked for its pages, and that order on disk.
//!
//! ```text
//!  0        4        8               16       20       24
//!  | "FKPO" | version | runs          | id len | crc32  | identity | runs: page u64, pages u32 |
//! ```
//! Little-endian; the checksum is over all that follows it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

const MAGIC: &[u8; 4] = b"FKPO";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;
const RUN_BYTES: usize = 12;
const IDENTITY_BYTES_MAX: usize = 4096;
/// A fork that asks for more has asked for nearly everything, and the order is of no use any more.
const RUNS_MAX: usize = 1 << 18;

/// Pages that were asked for one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskedRun {
    pub page: u64,
    pub pages: u32,
}

/// The order, of a template's pages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    runs: Vec<AskedRun>,
}

/// Why a record is not used. The fork is served all the same.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is no record of this version")]
    Unknown,
    #[error("it is damaged")]
    Damaged,
    #[error("it belongs to another template, {0:?}")]
    OtherTemplate(String),
}

impl Record {
    /// The record in the file at `path`, if there is one for a template with this identity and number of pages. A record that
    /// cannot be used is logged, and counts as missing.
    pub fn load_if_usable(path: &Path, identity: &str, pages: u64) -> Option<Record> {
        match Record::load(path, identity, pages) {
            Ok(record) => Some(record),
            Err(RecordError::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                forkd_log::line("records", &format!("{} is not used: {error}", path.display()));
                None
            }
        }
    }

    /// Notes pages that were served. What is more than the limit is left out.
    pub fn note(&mut self, page: u64, pages: u64) {
        let room = self.runs.len() < RUNS_MAX;
        match self.runs.last_mut() {
            Some(last) if last.page + u64::from(last.pages) == page => {
                last.pages = last.pages.saturating_add(pages as u32);
            }
            _ if room => self.runs.push(AskedRun {
                page,
                pages: pages as u32,
            }),
            _ => {}
        }
    }

    pub fn runs(&self) -> &[AskedRun] {
        &self.runs
    }

    pub fn encode(&self, identity: &str) -> Vec<u8> {
        let mut body = identity.as_bytes().to_vec();
        for run in &self.runs {
            body.extend(run.page.to_le_bytes());
            body.extend(run.pages.to_le_bytes());
        }
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend((self.runs.len() as u64).to_le_bytes());
        out.extend((identity.len() as u32).to_le_bytes());
        out.extend(crc32fast::hash(&body).to_le_bytes());
        out.extend(body);
        out
    }

    /// Takes back what was encoded for the template `identity`, which has `pages` pages.
    pub fn decode(bytes: &[u8], identity: &str, pages: u64) -> Result<Record, RecordError> {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        if bytes.len() < HEADER_BYTES || &bytes[..4] != MAGIC || word(4) != VERSION {
            return Err(RecordError::Unknown);
        }
        let count = u64::from(word(8)) | u64::from(word(12)) << 32;
        let (identity_len, checksum) = (word(16) as usize, word(20));
        let body = &bytes[HEADER_BYTES..];
        if count > RUNS_MAX as u64
            || identity_len > IDENTITY_BYTES_MAX
            || body.len() != identity_len + count as usize * RUN_BYTES
            || crc32fast::hash(body) != checksum
        {
            return Err(RecordError::Damaged);
        }
        let (theirs, runs) = body.split_at(identity_len);
        if theirs != identity.as_bytes() {
            return Err(RecordError::OtherTemplate(String::from_utf8_lossy(theirs).into_owned()));
        }
        let runs = runs.chunks_exact(RUN_BYTES).map(|run| AskedRun {
            page: u64::from_le_bytes(run[..8].try_into().expect("eight bytes")),
            pages: u32::from_le_bytes(run[8..].try_into().expect("four bytes")),
        });
        let runs: Vec<AskedRun> = runs.collect();
        let fits = |run: &AskedRun| run.page.checked_add(run.pages.into()).is_some_and(|end| end <= pages);
        if !runs.iter().all(fits) {
            return Err(RecordError::Damaged);
        }
        Ok(Record { runs })
    }

    /// Reads one from a file, of which no more is read than a record can have.
    pub fn load(path: &Path, identity: &str, pages: u64) -> Result<Record, RecordError> {
        let mut bytes = Vec::new();
        let limit = HEADER_BYTES + IDENTITY_BYTES_MAX + RUNS_MAX * RUN_BYTES + 1;
        File::open(path)?.take(limit as u64).read_to_end(&mut bytes)?;
        Record::decode(&bytes, identity, pages)
    }

    /// Writes the record to `path`, atomically.
    pub fn save(&self, path: &Path, identity: &str) -> io::Result<()> {
        let unfinished = path.with_extension(format!("unfinished-{}", std::process::id()));
        let written = File::create(&unfinished)
            .and_then(|mut file| file.write_all(&self.encode(identity)).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&unfinished, path));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }
}
