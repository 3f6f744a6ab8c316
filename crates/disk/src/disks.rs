//! The disks of a server, and what the next server knows of them.

use crate::callers::Callers;
use crate::disk::{Disk, Recovered};
use crate::epoch;
use crate::error::{DiskError, Result};
use crate::journal::Journal;
use crate::layer::{self, Files, Layer};
use crate::layers::Layers;
use crate::recovery::{Found, Record, Written};
use crate::slots::Slots;
use forkd_protocol::FaultCode;
use forkd_protocol::disk::{BLOCK_SIZE, DISK_BYTES_MAX, HeldDisk, OpenDisk};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

const KEY_CHARS_MAX: usize = 64;

/// A disk that is served.
#[derive(Debug)]
pub struct Export {
    pub key: String,
    pub disk: Disk,
    pub callers: Arc<Callers>,
}

/// A disk that an earlier server has served, and this one has not been asked for.
#[derive(Debug)]
struct Dormant {
    record: Record,
    /// The layers below those that the disk has written.
    stack: Result<Vec<Arc<Layer>>>,
    /// The layers that the disk has written, in order. The last is the one that it was writing.
    written: Vec<Written>,
}

#[derive(Debug, Default)]
struct Known {
    open: HashMap<String, Arc<Export>>,
    dormant: HashMap<String, Dormant>,
}

#[derive(Debug)]
pub struct Disks {
    /// The directory of the records.
    dir: PathBuf,
    pub layers: Arc<Layers>,
    known: Mutex<Known>,
}

impl Disks {
    /// The disks that an earlier server has left.
    pub fn new(dir: PathBuf, layers: Arc<Layers>, mut found: Found) -> Disks {
        let mut known = Known::default();
        for record in found.records {
            let mut written = found.written.remove(&record.serial).unwrap_or_default();
            written.sort_by_key(|written| written.layer.source_number());
            // The controller may have names for all but the last.
            for frozen in written.iter().rev().skip(1) {
                frozen.layer.is_held.store(true, Ordering::Relaxed);
                layers.add(frozen.layer.clone());
            }
            let dormant = Dormant {
                stack: Ok(Vec::new()),
                record: record.clone(),
                written,
            };
            known.dormant.insert(record.key, dormant);
        }
        // Disks that have been closed since wrote the other layers.
        for written in found.written.into_values().flatten() {
            written.layer.is_held.store(true, Ordering::Relaxed);
            layers.add(written.layer);
        }
        for dormant in known.dormant.values_mut() {
            dormant.stack = layers.find(dormant.record.layers.as_deref().unwrap_or_default());
        }
        layers.sweep();
        Disks {
            dir,
            layers,
            known: Mutex::new(known),
        }
    }

    /// Serves a disk, or adopts one that is there already.
    pub fn open(&self, request: OpenDisk) -> Result<Arc<Export>> {
        check(&request)?;
        let mut known = self.lock();
        let (size, key) = (request.size_bytes, request.key.clone());
        if let Some(export) = known.open.get(&key) {
            same_size(export.disk.blocks() * BLOCK_SIZE, size)?;
            export.callers.expect(request.pid);
            return Ok(export.clone());
        }
        let disk = match known.dormant.get(&key) {
            Some(dormant) => {
                same_size(dormant.record.size_bytes, size)?;
                self.wake(dormant)?
            }
            None => self.make(request.clone())?,
        };
        known.dormant.remove(&key);
        let export = Arc::new(Export {
            key: key.clone(),
            disk,
            callers: Arc::default(),
        });
        export.callers.expect(request.pid);
        known.open.insert(key, export.clone());
        Ok(export)
    }

    fn make(&self, request: OpenDisk) -> Result<Disk> {
        let serial = self.layers.next_number();
        let disk = Disk::new(self.layers.clone(), serial, request.size_bytes / BLOCK_SIZE, 0)?;
        let record = Record {
            key: request.key,
            serial,
            size_bytes: request.size_bytes,
            layers: request.layers,
        };
        self.fill(&disk, record).inspect_err(|_| self.discard(&disk))?;
        Ok(disk)
    }

    /// Binds a disk to the layers of its record, if it has any, and writes the record.
    fn fill(&self, disk: &Disk, record: Record) -> Result<()> {
        match &record.layers {
            None => record.write(&self.dir),
            Some(names) => {
                disk.bind(self.layers.find(names)?, || record.write(&self.dir))?;
                disk.prepare_next();
                Ok(())
            }
        }
    }

    /// Gives a disk that was opened without layers its content.
    pub fn bind(&self, key: &str, layers: Vec<String>) -> Result<()> {
        let export = self.find(key)?;
        let record = Record {
            key: key.to_owned(),
            serial: export.disk.serial(),
            size_bytes: export.disk.blocks() * BLOCK_SIZE,
            layers: Some(layers),
        };
        self.fill(&export.disk, record)
    }

    /// Continues with a disk that an earlier server has served.
    fn wake(&self, dormant: &Dormant) -> Result<Disk> {
        let Record {
            serial,
            size_bytes,
            layers,
            ..
        } = &dormant.record;
        let blocks = size_bytes / BLOCK_SIZE;
        let last = dormant.written.last();
        let epoch = epoch::after_restart(last.map_or(0, |written| written.epoch));
        let disk = Disk::new(self.layers.clone(), *serial, blocks, epoch)?;
        if layers.is_none() {
            return Ok(disk);
        }
        let lost = || DiskError::corrupt("the disk has lost the layer that it was writing");
        let (active, frozen) = dormant.written.split_last().ok_or_else(lost)?;
        let mut layers = dormant.stack.clone()?;
        layers.extend(frozen.iter().map(|written| written.layer.clone()));
        let mut stack = self.layers.stack(layers, blocks)?;
        let journal = Files::of(self.layers.dir(), &active.layer.source).journal;
        let (journal, own) = Journal::read(&journal, active.layer.number)?.ok_or_else(lost)?;
        layer::put_over(&mut stack.map, &own);
        let mut used = Vec::new();
        own.extents(|extent| {
            if extent.place.layer == active.layer.number {
                used.push((extent.place.slot, extent.blocks));
            }
        });
        stack.push(active.layer.clone());
        disk.resume(Recovered {
            stack,
            frozen: frozen
                .iter()
                .map(|written| (written.layer.clone(), written.epoch))
                .collect(),
            journal,
            layer: active.layer.clone(),
            slots: Slots::with_used(used),
        })?;
        disk.prepare_next();
        Ok(disk)
    }

    /// The disk that is open under this key.
    pub fn find(&self, key: &str) -> Result<Arc<Export>> {
        let found = self.lock().open.get(key).cloned();
        found.ok_or_else(|| {
            DiskError::new(
                FaultCode::UnknownSandbox,
                format!("no disk is open under the key {key:?}"),
            )
        })
    }

    /// Ends a disk, and removes what it has written since it was sealed.
    pub fn close(&self, key: &str) {
        let (open, dormant) = {
            let mut known = self.lock();
            (known.open.remove(key), known.dormant.remove(key))
        };
        if open.is_none() && dormant.is_none() {
            return;
        }
        // The record first: a record without its layer could not be told from a damaged disk.
        Record::remove(&self.dir, key);
        if let Some(export) = open {
            export.callers.end();
            self.discard(&export.disk);
        }
        if let Some(Dormant { mut written, .. }) = dormant {
            written.pop().inspect(|active| self.layers.add(active.layer.clone()));
        }
        self.layers.sweep();
    }

    fn discard(&self, disk: &Disk) {
        disk.end();
        self.layers.sweep();
    }

    pub fn inventory(&self) -> Vec<HeldDisk> {
        let known = self.lock();
        let open = known.open.values().map(|export| {
            let (pid, connections) = export.callers.known();
            HeldDisk {
                key: export.key.clone(),
                size_bytes: export.disk.blocks() * BLOCK_SIZE,
                bound: export.disk.is_bound(),
                open: true,
                pid,
                connections,
            }
        });
        let dormant = known.dormant.values().map(|Dormant { record, .. }| HeldDisk {
            key: record.key.clone(),
            size_bytes: record.size_bytes,
            bound: record.layers.is_some(),
            open: false,
            pid: None,
            connections: 0,
        });
        open.chain(dormant).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no panic while held")
    }
}

fn check(request: &OpenDisk) -> Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if request.key.is_empty() || request.key.len() > KEY_CHARS_MAX || !request.key.bytes().all(is_plain) {
        let message = format!(
            "a key has 1 to {KEY_CHARS_MAX} letters, digits, '_' and '-', unlike {:?}",
            request.key
        );
        return Err(DiskError::bad_request(message));
    }
    check_size(request.size_bytes)
}

/// Fails unless a disk can have this size.
pub fn check_size(bytes: u64) -> Result<()> {
    if bytes == 0 || bytes > DISK_BYTES_MAX || !bytes.is_multiple_of(BLOCK_SIZE) {
        let message = format!("a disk has a multiple of {BLOCK_SIZE} bytes up to {DISK_BYTES_MAX}, not {bytes}");
        return Err(DiskError::bad_request(message));
    }
    Ok(())
}

fn same_size(is: u64, wanted: u64) -> Result<()> {
    if is == wanted {
        return Ok(());
    }
    Err(DiskError::bad_request(format!("the disk has {is} bytes, not {wanted}")))
}

#[cfg(test)]
mod tests;
