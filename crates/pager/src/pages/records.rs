//! In which order VMs have asked for their memory: a file for each stack, made by the first VM of it that was served.

use forkd_page_server::{Record, RecordError};
use sha2::{Digest, Sha256};
use std::fs::{self, DirEntry};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The oldest one makes room for one more.
const RECORDS_MAX: usize = 512;

/// The record of a file, if there is one. One that is of no use is told of in the name of `who`, and made anew.
pub fn load(who: &str, path: &Path, identity: &str, pages: u64) -> Option<Record> {
    match Record::load(path, identity, pages) {
        Ok(record) => Some(record),
        Err(RecordError::Io(error)) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => {
            eprintln!("{who}: the record {} is not used: {error}", path.display());
            None
        }
    }
}

pub struct Records {
    dir: PathBuf,
}

impl Records {
    pub fn new(dir: PathBuf) -> Records {
        Records { dir }
    }

    /// What was asked for of the stack `identity`, if that is known.
    pub fn load(&self, identity: &str, pages: u64) -> Option<Record> {
        load("forkd-pager", &self.path(identity), identity, pages)
    }

    /// Keeps what was asked for. Without it the next VM is only slower.
    pub fn save(&self, record: &Record, identity: &str) {
        if record.runs().is_empty() {
            return;
        }
        let path = self.path(identity);
        let saved = fs::create_dir_all(&self.dir)
            .and_then(|()| self.make_room())
            .and_then(|()| record.save(&path, identity));
        if let Err(error) = saved {
            eprintln!("forkd-pager: writing the record {}: {error}", path.display());
        }
    }

    fn path(&self, identity: &str) -> PathBuf {
        let digest = Sha256::digest(identity.as_bytes());
        let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        self.dir.join(name)
    }

    fn make_room(&self) -> std::io::Result<()> {
        let mut entries = fs::read_dir(&self.dir)?.collect::<std::io::Result<Vec<DirEntry>>>()?;
        if entries.len() < RECORDS_MAX {
            return Ok(());
        }
        let written = |entry: &DirEntry| entry.metadata().and_then(|metadata| metadata.modified());
        entries.sort_by_key(|entry| written(entry).unwrap_or(SystemTime::UNIX_EPOCH));
        let surplus = entries.len() + 1 - RECORDS_MAX;
        entries
            .iter()
            .take(surplus)
            .try_for_each(|entry| fs::remove_file(entry.path()))
    }
}
