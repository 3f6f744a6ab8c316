//! The orders in which VMs have requested their memory: one file per stack, from the first VM of the stack that was served.

use forkd_layers::digest_of;
use forkd_page_server::Record;
use std::fs::{self, DirEntry};
use std::path::PathBuf;
use std::time::SystemTime;

/// The most records. A new one replaces the oldest.
const RECORDS_MAX: usize = 512;

pub struct Records {
    dir: PathBuf,
}

impl Records {
    pub fn new(dir: PathBuf) -> Records {
        Records { dir }
    }

    /// The order in which pages of the stack `identity` were requested, if known.
    pub fn load(&self, identity: &str, pages: u64) -> Option<Record> {
        Record::load_if_usable(&self.path(identity), identity, pages)
    }

    /// Stores an order. A failure is only logged: without the record the next VM is slower.
    pub fn save(&self, record: &Record, identity: &str) {
        if record.runs().is_empty() {
            return;
        }
        let path = self.path(identity);
        let saved = fs::create_dir_all(&self.dir)
            .and_then(|()| self.make_room())
            .and_then(|()| record.save(&path, identity));
        if let Err(error) = saved {
            forkd_log::line("records", &format!("writing {}: {error}", path.display()));
        }
    }

    fn path(&self, identity: &str) -> PathBuf {
        let digest = digest_of(identity.as_bytes());
        self.dir.join(digest.trim_start_matches("sha256:"))
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
