//! A disk: a stack of layers, the topmost of which it writes, and the epochs at which it begins another.

use crate::audit::PausedDisk;
use crate::content::{Active, Content, Frozen};
use crate::epoch::Epoch;
use crate::error::{DiskError, Result};
use crate::journal::Journal;
use crate::layer::Layer;
use crate::layers::{Layers, Prepared};
use crate::slots::Slots;
use crate::stack::{Part, Stack};
use forkd_protocol::FaultCode;
use forkd_protocol::disk::{BLOCK_SIZE, DISK_LAYERS_MAX, DiskAudit, DiskUse};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most ranges of slots whose space is freed at a time.
const RANGES_MAX: usize = 256;

/// A journal is not rewritten before it has this many records (16 MiB).
const RECORDS_MIN: u64 = 1 << 19;

/// Parts of a disk that an earlier server has served.
#[derive(Debug)]
pub struct Recovered {
    /// The layers below those that the disk has written, and the map of all its layers.
    pub stack: Stack,
    /// The layers that it has written, without the active one, with the epoch at which each was begun.
    pub frozen: Vec<(Arc<Layer>, u64)>,
    pub journal: Journal,
    pub layer: Arc<Layer>,
    pub slots: Slots,
}

#[derive(Debug)]
pub struct Disk {
    serial: u64,
    blocks: u64,
    layers: Arc<Layers>,
    epoch: Epoch,
    content: Mutex<Option<Content>>,
    is_ended: AtomicBool,
    /// The files of the next layer, so that a freeze makes none.
    spare: Mutex<Option<Prepared>>,
    is_due: AtomicBool,
    is_queued: AtomicBool,
    is_full: AtomicBool,
    /// The disk as it was in the pause of a branch whose audit is under way, or was given up.
    paused: Mutex<Option<PausedDisk>>,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

impl Disk {
    /// A disk of `blocks` blocks that is not bound.
    pub fn new(layers: Arc<Layers>, serial: u64, blocks: u64, epoch: u64) -> Result<Disk> {
        Ok(Disk {
            serial,
            blocks,
            layers,
            epoch: Epoch::new(epoch)?,
            content: Mutex::default(),
            is_ended: AtomicBool::new(false),
            spare: Mutex::default(),
            is_due: AtomicBool::new(false),
            is_queued: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            paused: Mutex::default(),
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
        })
    }

    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    pub fn serial(&self) -> u64 {
        self.serial
    }

    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    pub fn is_bound(&self) -> bool {
        self.lock().is_ok_and(|content| content.is_some())
    }

    /// Gives the disk its content. `record` notes it, for the next server, once everything else is in place.
    pub fn bind(&self, layers: Vec<Arc<Layer>>, record: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.is_bound() {
            return Err(DiskError::bad_request("the disk has its content already"));
        }
        let mut stack = self.layers.stack(layers, self.blocks)?;
        let active = self.begin(self.layers.prepare()?, self.epoch.get())?;
        let base = stack.layers.len();
        stack.push(active.layer.clone());
        let mut content = self.lock()?;
        // The next sweep removes a layer that has no record.
        record().inspect_err(|_| self.layers.add(active.layer.clone()))?;
        *content = Some(Content {
            stack,
            base,
            frozen: Vec::new(),
            active,
        });
        Ok(())
    }

    /// Continues where an earlier server has ended.
    pub fn resume(&self, recovered: Recovered) -> Result<()> {
        let Recovered {
            stack,
            frozen,
            journal,
            layer,
            slots,
        } = recovered;
        let base = stack.layers.len() - frozen.len() - 1;
        let frozen = frozen.into_iter().map(|(layer, epoch)| Frozen {
            blocks: layer.blocks.load(Ordering::Relaxed),
            layer,
            epoch,
        });
        let mut active = Active { layer, journal, slots };
        active.journal.cut()?;
        active.journal.set_epoch(self.epoch.get())?;
        *self.lock()? = Some(Content {
            stack,
            base,
            frozen: frozen.collect(),
            active,
        });
        Ok(())
    }

    /// Reads whole blocks.
    pub fn read(&self, block: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        match &*self.lock()? {
            Some(content) => content.stack.read(block, buffer),
            None => {
                buffer.fill(0);
                Ok(())
            }
        }
    }

    /// The places of whole blocks, for a reader that waits for a slow client: nothing is held while it does.
    pub fn parts(&self, blocks: Range<u64>) -> Result<Vec<Part>> {
        let count = blocks.end - blocks.start;
        self.read_bytes.fetch_add(count * BLOCK_SIZE, Ordering::Relaxed);
        match &*self.lock()? {
            Some(content) => content.stack.parts(blocks),
            None => Ok(vec![Part {
                blocks: count,
                place: None,
            }]),
        }
    }

    /// Writes whole blocks.
    pub fn write(&self, block: u64, bytes: &[u8]) -> Result<()> {
        self.written_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let written = self.change(|content| content.write(block, bytes));
        let is_full = written.as_ref().is_err_and(|error| error.code == FaultCode::DiskFull);
        self.is_full.store(is_full, Ordering::Relaxed);
        written
    }

    /// Makes blocks zeros, and frees their space.
    pub fn clear(&self, blocks: Range<u64>) -> Result<()> {
        self.change(|content| content.clear(blocks))?;
        self.is_due.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut Content) -> Result<()>) -> Result<()> {
        let mut content = self.lock()?;
        let unbound = || DiskError::bad_request("the disk has no content yet");
        let content = content.as_mut().ok_or_else(unbound)?;
        self.follow(content, self.epoch.get())?;
        change(content)?;
        // A failure leaves the journal as it is: long, and right.
        let _ = content.active.journal.rewrite_if_long(RECORDS_MIN);
        Ok(())
    }

    /// Freezes the active layer if the epoch has moved since it was begun.
    fn follow(&self, content: &mut Content, epoch: u64) -> Result<()> {
        let active = &mut content.active;
        if active.journal.header().epoch == epoch {
            return Ok(());
        }
        if active.journal.is_empty() {
            return active.journal.set_epoch(epoch);
        }
        if content.stack.layers.len() >= DISK_LAYERS_MAX {
            let message = format!("the disk has {DISK_LAYERS_MAX} layers: merge them");
            return Err(DiskError::new(FaultCode::Unsupported, message));
        }
        let spare = self.spare().take();
        self.is_due.store(true, Ordering::Relaxed);
        let next = self.begin(spare.map_or_else(|| self.layers.prepare(), Ok)?, epoch)?;
        let blocks = content.active.slots.in_use();
        let last = std::mem::replace(&mut content.active, next);
        last.layer.blocks.store(blocks, Ordering::Relaxed);
        self.layers.keep_map(&content.stack, self.blocks);
        self.layers.add(last.layer.clone());
        content.stack.push(content.active.layer.clone());
        content.frozen.push(Frozen {
            layer: last.layer,
            epoch: last.journal.header().epoch,
            blocks,
        });
        Ok(())
    }

    fn begin(&self, prepared: Prepared, epoch: u64) -> Result<Active> {
        let (layer, journal) = self.layers.begin(prepared, self.serial, epoch, self.blocks)?;
        Ok(Active {
            layer,
            journal,
            slots: Slots::default(),
        })
    }

    /// The stack as it was when the epoch became `epoch`, and the bytes of those of its layers that had no name before.
    pub fn seal(&self, epoch: u64) -> Result<(Vec<String>, u64)> {
        if !self.epoch.has_been(epoch) {
            return Err(DiskError::bad_request(format!(
                "the disk's epoch is {}, and was never {epoch} under this server",
                self.epoch.get()
            )));
        }
        let mut content = self.lock()?;
        let unbound = || DiskError::bad_request("the disk has no content yet");
        let content = content.as_mut().ok_or_else(unbound)?;
        if content.active.journal.header().epoch < epoch {
            self.follow(content, epoch)?;
        }
        let below = content.frozen.iter().take_while(|frozen| frozen.epoch < epoch);
        let is_new = |frozen: &&Frozen| !frozen.layer.is_held.load(Ordering::Relaxed);
        let own_blocks: u64 = below.clone().filter(is_new).map(|frozen| frozen.blocks).sum();
        let names = content.stack.layers[..content.base + below.count()]
            .iter()
            .map(|layer| {
                // The name of a lower layer may have been dropped since the disk was made.
                layer.is_held.store(true, Ordering::Relaxed);
                layer.name()
            });
        Ok((names.collect(), own_blocks * BLOCK_SIZE))
    }

    /// Notes what each block holds. The VM must be stopped.
    pub fn start_audit(&self) -> Result<()> {
        let stack = self.lock()?.as_ref().map(|content| content.stack.clone());
        let unbound = || DiskError::bad_request("the disk has no content yet");
        let paused = PausedDisk::take(&stack.ok_or_else(unbound)?)?;
        *self.paused() = Some(paused);
        Ok(())
    }

    /// Compares a snapshot with what the last audit has noted.
    pub fn finish_audit(&self, snapshot: &Stack) -> Result<DiskAudit> {
        let not_started = || DiskError::bad_request("no audit of the disk was started");
        let paused = self.paused().take().ok_or_else(not_started)?;
        paused.compare(snapshot)
    }

    fn paused(&self) -> MutexGuard<'_, Option<PausedDisk>> {
        self.paused.lock().expect("no panic while held")
    }

    /// True if work for [`Disk::maintain`] has come up, and nobody has been asked to do it yet.
    pub fn is_newly_due(&self) -> bool {
        self.is_due.load(Ordering::Relaxed) && !self.is_queued.swap(true, Ordering::AcqRel)
    }

    /// Does some of the work that no request has to wait for. The rest is newly due.
    pub fn maintain(&self) {
        self.is_queued.store(false, Ordering::Release);
        self.is_due.store(false, Ordering::Relaxed);
        self.prepare_next();
        // A failure means that the disk has ended.
        if let Ok(true) = self.free_space() {
            self.is_due.store(true, Ordering::Relaxed);
        }
    }

    /// Frees the space of some freed slots on the host. Returns false if there are none.
    fn free_space(&self) -> Result<bool> {
        let (layer, freed) = {
            let mut content = self.lock()?;
            let Some(Content { active, .. }) = &mut *content else {
                return Ok(false);
            };
            let freed = std::iter::from_fn(|| active.slots.reserve_freed());
            (active.layer.clone(), freed.take(RANGES_MAX).collect::<Vec<_>>())
        };
        layer.free_space(&freed);
        // A layer that was frozen meanwhile needs its slots no more.
        if let Some(Content { active, .. }) = &mut *self.lock()?
            && active.layer.number == layer.number
        {
            for (slot, count) in &freed {
                active.slots.give_back_empty(*slot, *count);
            }
        }
        Ok(!freed.is_empty())
    }

    /// Makes the files of the next layer, if there are none. After a failure, the freeze makes them.
    pub fn prepare_next(&self) {
        if self.spare().is_some() {
            return;
        }
        let prepared = match self.layers.prepare() {
            Ok(prepared) => prepared,
            Err(error) => return forkd_log::line("disk", &error.message),
        };
        let mut spare = self.spare();
        if spare.is_some() || self.is_ended.load(Ordering::SeqCst) {
            prepared.remove();
        } else {
            *spare = Some(prepared);
        }
    }

    fn spare(&self) -> MutexGuard<'_, Option<Prepared>> {
        self.spare.lock().expect("no panic while held")
    }

    /// Ends the disk: what it has written since it was sealed goes.
    pub fn end(&self) {
        self.is_ended.store(true, Ordering::SeqCst);
        self.spare().take().inspect(Prepared::remove);
        // A request that is under way ends first.
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(content) = content.take() {
            self.layers.add(content.active.layer.clone());
        }
    }

    pub fn usage(&self) -> Result<DiskUse> {
        let content = self.lock()?;
        let own = content.as_ref().map_or(0, |content| content.active.slots.in_use());
        let all = content.as_ref().map(|content| content.stack.map.clone());
        drop(content);
        let mut mapped = 0;
        if let Some(map) = all {
            map.extents(|extent| mapped += extent.blocks);
        }
        Ok(DiskUse {
            own_bytes: own * BLOCK_SIZE,
            shared_bytes: mapped.saturating_sub(own) * BLOCK_SIZE,
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
            full: self.is_full.load(Ordering::Relaxed),
        })
    }

    /// Fails if the disk has ended, or if an earlier request has panicked: what is in memory may not be what is in the files any more.
    fn lock(&self) -> Result<MutexGuard<'_, Option<Content>>> {
        let broken = |_| {
            DiskError::new(
                FaultCode::Internal,
                "an earlier request has failed inside the disk server",
            )
        };
        let content = self.content.lock().map_err(broken)?;
        if self.is_ended.load(Ordering::SeqCst) {
            return Err(DiskError::bad_request("the disk has been closed"));
        }
        Ok(content)
    }
}
