//! Guest memory, and the threads that write to it in the place of a guest.

use crate::config::{Config, Fault, WriteFeatures};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::uffd::Userfaultfd;
use forkd_vmm_stand_in::regions::Regions;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const WRITERS: usize = 2;
/// Words that a writer writes before it checks whether it may continue.
const BURST: usize = 32;
const BETWEEN_BURSTS: Duration = Duration::from_millis(1);

/// The pages that a load writes, below 1 MiB, where Firecracker has the guest's tables.
const GENERATION_PAGES: [usize; 2] = [0xde, 0xdf];
const GENERATION_OFFSET: usize = 0x800;
/// The version that began to.
const GENERATION_SINCE: (u32, u32) = (1, 8);

/// Position of a writer in its sequence. It is part of a snapshot, so that a restored VM continues from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriterState {
    seed: u64,
    writes: u64,
}

struct Gate {
    runs: bool,
    writers: [WriterState; WRITERS],
}

struct Shared {
    memory: Regions,
    /// The userfaultfd that reports missing pages, and the connection to the process that fills them. Both are kept for
    /// life.
    _served: Option<(Userfaultfd, UnixStream)>,
    /// A bit for each page written since the last snapshot, where that is tracked.
    dirty: Option<Vec<AtomicU64>>,
    gate: Mutex<Gate>,
    opened: Condvar,
    over: AtomicBool,
    received: Mutex<Received>,
}

/// Guest memory that the vsock device has written, as the device knows it.
#[derive(Default)]
struct Received {
    bytes: u64,
    /// How often it was reset: connections of before give the guest nothing any more.
    resets: u64,
}

/// The way of one connection's bytes into the guest: the first page counts them.
pub struct Receiver {
    shared: Arc<Shared>,
    resets: u64,
}

pub struct GuestMemory {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl GuestMemory {
    /// Memory of zeros.
    pub fn empty(sizes: &[usize], tracked: bool) -> io::Result<GuestMemory> {
        let first = |index| WriterState {
            seed: 0x9e37_79b9 + index as u64,
            writes: 0,
        };
        let memory = Regions::anonymous(sizes)?;
        GuestMemory::new(memory, None, tracked, std::array::from_fn(first))
    }

    /// Memory with the content of a file, which stays as it is, unless it is `shared`: then it is the memory.
    pub fn of_file(
        path: &Path,
        sizes: &[usize],
        shared: bool,
        tracked: bool,
        writers: &[WriterState],
    ) -> io::Result<GuestMemory> {
        let file = File::options().read(true).write(shared).open(path)?;
        let bytes: usize = sizes.iter().sum();
        let length = file.metadata()?.len();
        if length != bytes as u64 {
            return Err(io::Error::other(format!(
                "the memory file has {length} bytes, the snapshot says {bytes}"
            )));
        }
        let memory = if shared {
            Regions::shared(&file, sizes)?
        } else {
            Regions::of_file(&file, sizes)?
        };
        GuestMemory::new(memory, None, tracked, states_of(writers)?)
    }

    /// Memory that the page server at `socket` gives page by page.
    pub fn of_server(
        socket: &Path,
        sizes: &[usize],
        tracked: bool,
        writers: &[WriterState],
    ) -> io::Result<GuestMemory> {
        let memory = Regions::anonymous(sizes)?;
        let uffd = memory.register()?;
        let stream = memory.hand_over(&uffd, socket)?;
        GuestMemory::new(memory, Some((uffd, stream)), tracked, states_of(writers)?)
    }

    fn new(
        memory: Regions,
        served: Option<(Userfaultfd, UnixStream)>,
        tracked: bool,
        writers: [WriterState; WRITERS],
    ) -> io::Result<GuestMemory> {
        let words = (memory.len() / PAGE_SIZE).div_ceil(64);
        let shared = Arc::new(Shared {
            memory,
            _served: served,
            dirty: tracked.then(|| std::iter::repeat_with(AtomicU64::default).take(words).collect()),
            gate: Mutex::new(Gate { runs: false, writers }),
            opened: Condvar::new(),
            over: AtomicBool::new(false),
            received: Mutex::default(),
        });
        let threads = (0..WRITERS)
            .map(|index| {
                let shared = shared.clone();
                thread::Builder::new()
                    .name(format!("fc_vcpu {index}"))
                    .spawn(move || shared.write(index))
            })
            .collect::<io::Result<_>>()?;
        Ok(GuestMemory { shared, threads })
    }

    /// Lets the writers run, or stops them: none is in the middle of anything when this returns.
    pub fn set_running(&self, runs: bool) {
        self.shared.gate.lock().expect("no panic while held").runs = runs;
        self.shared.opened.notify_all();
    }

    pub fn writers(&self) -> Vec<WriterState> {
        self.shared.gate.lock().expect("no panic while held").writers.to_vec()
    }

    pub fn len(&self) -> usize {
        self.shared.memory.len()
    }

    /// Sends a userfaultfd that can write-protect all memory to the listener at `socket`.
    pub fn hand_over(&self, socket: &Path, config: &Config) -> io::Result<()> {
        let memory = &self.shared.memory;
        match config.fault {
            Some(Fault::NoHandover) => {
                // Held for life, as one that is late.
                std::mem::forget(UnixStream::connect(socket)?);
                Ok(())
            }
            Some(Fault::OddHandover) => {
                let uffd = memory.register_writes(Userfaultfd::create()?)?;
                memory.hand_over_part(&uffd, socket)
            }
            Some(Fault::TalkativeHandover) => {
                let uffd = memory.register_writes(Userfaultfd::create_for_writes_and_removals()?)?;
                memory.hand_over(&uffd, socket).map(drop)
            }
            _ => {
                let uffd = match config.write_features {
                    WriteFeatures::All => Userfaultfd::create()?,
                    WriteFeatures::Alone => Userfaultfd::create_for_writes_alone()?,
                };
                let uffd = memory.register_writes(uffd)?;
                memory.hand_over(&uffd, socket).map(drop)
            }
        }
    }

    pub fn receiver(&self) -> Receiver {
        Receiver {
            shared: self.shared.clone(),
            resets: 0,
        }
    }

    /// Open connections send the guest nothing from now on.
    pub fn end_receiving(&self) {
        self.shared.received().resets += 1;
    }

    pub fn received(&self) -> u64 {
        self.shared.received().bytes
    }

    /// Restores the number from a snapshot.
    pub fn set_received(&self, bytes: u64) {
        self.shared.received().bytes = bytes;
    }

    /// Copies `bytes` to `offset`, as the VMM does that loads a kernel.
    pub fn load(&self, offset: usize, bytes: &[u8]) -> Result<(), String> {
        if offset + bytes.len() > self.len() {
            return Err(format!(
                "{} bytes at {offset:#x} do not fit the guest's memory",
                bytes.len()
            ));
        }
        self.shared.memory.write(offset, bytes);
        for page in offset / PAGE_SIZE..(offset + bytes.len()).div_ceil(PAGE_SIZE) {
            self.shared.mark(page);
        }
        Ok(())
    }

    /// Writes what the VMM writes into a VM that it loads, so that the guest notices: a new generation, in two pages.
    pub fn note_load(&self, config: &Config) {
        let (major, minor) = GENERATION_SINCE;
        if !config.is_at_least(major, minor) {
            return;
        }
        for page in GENERATION_PAGES {
            let offset = page * PAGE_SIZE + GENERATION_OFFSET;
            if offset < self.len() {
                self.shared
                    .store(offset, u64::from(std::process::id()) << 32 | page as u64);
            }
        }
    }

    /// The content of a page. The writers must be stopped.
    pub fn page(&self, page: usize) -> &[u8] {
        let (region, at) = self.shared.memory.at(page * PAGE_SIZE);
        region.bytes(at, PAGE_SIZE)
    }

    /// Whether a page was written since the last snapshot; `None` where nobody keeps count.
    pub fn is_dirty(&self, page: usize) -> Option<bool> {
        let dirty = self.shared.dirty.as_ref()?;
        Some(dirty[page / 64].load(Ordering::Relaxed) & (1 << (page % 64)) != 0)
    }

    /// Counts from here on.
    pub fn forget_dirty(&self) {
        for word in self.shared.dirty.iter().flatten() {
            word.store(0, Ordering::Relaxed);
        }
    }
}

impl Shared {
    fn write(&self, index: usize) {
        loop {
            let gate = self.gate.lock().expect("no panic while held");
            let stopped = |gate: &mut Gate| !gate.runs && !self.over.load(Ordering::Relaxed);
            let mut gate = self.opened.wait_while(gate, stopped).expect("no panic while held");
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            for _ in 0..BURST {
                // The first page is the device's.
                let words = (self.memory.len() - PAGE_SIZE) / 8;
                let offset = PAGE_SIZE + gate.writers[index].next(words as u64) as usize * 8;
                self.store(offset, gate.writers[index].writes << 8 | index as u64);
            }
            drop(gate);
            thread::sleep(BETWEEN_BURSTS);
        }
    }

    fn store(&self, offset: usize, value: u64) {
        let (region, at) = self.memory.at(offset);
        region.word(at).store(value, Ordering::Relaxed);
        self.mark(offset / PAGE_SIZE);
    }

    fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().expect("no panic while held")
    }

    fn mark(&self, page: usize) {
        if let Some(dirty) = &self.dirty {
            dirty[page / 64].fetch_or(1 << (page % 64), Ordering::Relaxed);
        }
    }
}

impl Receiver {
    /// A receiver for the next connection.
    pub fn connection(&self) -> Receiver {
        Receiver {
            shared: self.shared.clone(),
            resets: self.shared.received().resets,
        }
    }

    /// Gives the guest `bytes` bytes, whether or not it runs. `false` once the connection has been reset.
    pub fn receive(&self, bytes: usize) -> bool {
        let mut received = self.shared.received();
        if received.resets != self.resets {
            return false;
        }
        received.bytes += bytes as u64;
        self.shared.store(0, received.bytes);
        true
    }
}

fn states_of(writers: &[WriterState]) -> io::Result<[WriterState; WRITERS]> {
    writers.try_into().map_err(|_| io::Error::other("the writers' states"))
}

impl WriterState {
    /// The next word to write, below `words`.
    fn next(&mut self, words: u64) -> u64 {
        self.writes += 1;
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 20) % words
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        // Take the lock, so that no writer is between its check and its wait.
        drop(self.shared.gate.lock().expect("no panic while held"));
        self.shared.opened.notify_all();
        for thread in self.threads.drain(..) {
            // A writer that panicked has said so.
            let _ = thread.join();
        }
    }
}
