//! The files that a server leaves in its directory for the next one.
//!
//! ```text
//! DIR/boot                      the host's boot id
//! DIR/disks/KEY.json            a disk: its serial number, size and lower layers
//! DIR/layers/N.data, N.map      a layer that a disk has written, and its journal
//! DIR/layers/sha256-HEX.data    a link to a layer of the store
//! ```
//! Nothing here is synced: it outlives processes, not the host. If the host has started since, all of it is removed.

use crate::error::{DiskError, Result, Step};
use crate::journal::Journal;
use crate::layer::{Files, Layer, Source};
use crate::layers::Layers;
use forkd_layers::Blobs;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest record, in bytes: a stack may have thousands of layers.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// A disk, for the next server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub key: String,
    /// The number by which the disk's layers know it.
    pub serial: u64,
    pub size_bytes: u64,
    /// The layers below those that the disk has written. `None`: it is not bound.
    pub layers: Option<Vec<String>>,
}

impl Record {
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = Record::path(dir, &self.key);
        let writing = || format!("writing {}", path.display());
        let part = path.with_extension("part");
        fs::write(&part, serde_json::to_vec(self).expect("a record is plain data")).step(writing)?;
        fs::rename(&part, &path).step(writing)
    }

    /// Removes a record. A failure is harmless: the controller finds the disk and closes it again.
    pub fn remove(dir: &Path, key: &str) {
        let _ = fs::remove_file(Record::path(dir, key));
    }

    fn path(dir: &Path, key: &str) -> PathBuf {
        dir.join(format!("{key}.json"))
    }

    fn read(path: &Path) -> Result<Record> {
        let size = path.metadata().step(|| format!("reading {}", path.display()))?.len();
        let damaged = |why: String| DiskError::corrupt(format!("{} is no record of a disk: {why}", path.display()));
        if size > RECORD_BYTES_MAX {
            return Err(damaged(format!("it has {size} bytes")));
        }
        let bytes = fs::read(path).step(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))
    }
}

/// A layer that a disk has written.
#[derive(Debug)]
pub struct Written {
    pub layer: Arc<Layer>,
    /// The epoch at which it was begun.
    pub epoch: u64,
}

/// Disks and layers that an earlier server has left.
#[derive(Debug, Default)]
pub struct Found {
    pub records: Vec<Record>,
    /// Layers by the serial number of their disk.
    pub written: HashMap<u64, Vec<Written>>,
}

/// The directories of a server.
#[derive(Debug)]
pub struct Directory {
    pub disks: PathBuf,
    layers: PathBuf,
}

impl Directory {
    /// Opens or makes `dir`. What was left before the host was started is removed.
    pub fn open(dir: &Path) -> Result<Directory> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").step(|| "reading the boot id".into())?;
        let mark = dir.join("boot");
        if fs::read_to_string(&mark).is_ok_and(|last| last != boot) {
            fs::remove_dir_all(dir).step(|| format!("removing {}", dir.display()))?;
        }
        let directory = Directory {
            disks: dir.join("disks"),
            layers: dir.join("layers"),
        };
        for path in [&directory.disks, &directory.layers] {
            fs::create_dir_all(path).step(|| format!("making {}", path.display()))?;
        }
        fs::write(&mark, boot).step(|| format!("writing {}", mark.display()))?;
        Ok(directory)
    }

    /// Lists what is there, and removes what was begun and not finished.
    pub fn recover(&self, blobs: Blobs) -> Result<(Arc<Layers>, Found)> {
        let mut found = Found {
            records: self.records()?,
            ..Found::default()
        };
        let (numbers, stored) = self.layer_files()?;
        let serials = found.records.iter().map(|record| record.serial);
        let next = numbers.iter().copied().chain(serials).max().map_or(1, |last| last + 1);
        let layers = Arc::new(Layers::new(self.layers.clone(), blobs, next)?);
        for number in numbers {
            let source = Source::Written(number);
            let files = Files::of(&self.layers, &source);
            let header = match Journal::header_of(&files.journal) {
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                header => header.step(|| format!("reading {}", files.journal.display()))?,
            };
            let Some(header) = header.filter(|header| header.layer == number) else {
                files.remove();
                continue;
            };
            let written = Written {
                layer: layers.reopen(number)?,
                epoch: header.epoch,
            };
            found.written.entry(header.disk).or_default().push(written);
        }
        for name in stored {
            // A layer that no disk uses is removed with the first sweep.
            if let Err(error) = layers.find(std::slice::from_ref(&name)) {
                forkd_log::line("recovery", &error.message);
                Files::of(&self.layers, &Source::Stored(name)).remove();
            }
        }
        Ok((layers, found))
    }

    fn records(&self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for path in list(&self.disks)? {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => match Record::read(&path) {
                    Ok(record) => records.push(record),
                    // The disk is lost, but no other.
                    Err(error) => forkd_log::line("recovery", &error.message),
                },
                _ => fs::remove_file(&path).step(|| format!("removing {}", path.display()))?,
            }
        }
        Ok(records)
    }

    /// The numbers of the layers that were written here, ascending, and the names of those of the store.
    fn layer_files(&self) -> Result<(Vec<u64>, Vec<String>)> {
        let (mut numbers, mut stored) = (Vec::new(), Vec::new());
        for path in list(&self.layers)? {
            let part = |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).unwrap_or("").to_owned();
            let (stem, extension) = (part(path.file_stem()), part(path.extension()));
            match (stem.parse(), stem.strip_prefix("sha256-"), extension.as_str()) {
                (Ok(number), _, "data" | "map") => numbers.push(number),
                (_, Some(hex), "data") => stored.push(format!("sha256:{hex}")),
                _ => fs::remove_file(&path).step(|| format!("removing {}", path.display()))?,
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        Ok((numbers, stored))
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let listing = || format!("listing {}", dir.display());
    let entries = fs::read_dir(dir).step(listing)?;
    entries.map(|entry| Ok(entry.step(listing)?.path())).collect()
}
