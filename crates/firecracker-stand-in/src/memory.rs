//! Guest memory, and the threads that write to it in the place of a guest.

use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::uffd::Userfaultfd;
use forkd_vmm_stand_in::regions::Regions;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const WRITERS: usize = 2;
/// Words that a writer writes before it looks whether it may go on.
const BURST: usize = 32;
const BETWEEN_BURSTS: Duration = Duration::from_millis(1);

/// Where a writer is in its sequence; part of a snapshot, so that a restored VM goes on from there.
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
    /// What says that a page is asked for, and the connection to whoever gives it. Kept for life.
    _served: Option<(Userfaultfd, UnixStream)>,
    /// A bit for each page written since the last snapshot, where that is tracked.
    dirty: Option<Vec<AtomicU64>>,
    gate: Mutex<Gate>,
    opened: Condvar,
    over: AtomicBool,
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

    /// Memory with the content of a file, which stays as it is.
    pub fn of_file(path: &Path, sizes: &[usize], tracked: bool, writers: &[WriterState]) -> io::Result<GuestMemory> {
        let file = File::open(path)?;
        let bytes: usize = sizes.iter().sum();
        let length = file.metadata()?.len();
        if length != bytes as u64 {
            return Err(io::Error::other(format!(
                "the memory file has {length} bytes, the snapshot says {bytes}"
            )));
        }
        GuestMemory::new(Regions::of_file(&file, sizes)?, None, tracked, states_of(writers)?)
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

    /// What is in a page. The writers must stand still.
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
                let offset = gate.writers[index].next((self.memory.len() / 8) as u64) * 8;
                let value = gate.writers[index].writes << 8 | index as u64;
                let (region, at) = self.memory.at(offset as usize);
                region.word(at).store(value, Ordering::Relaxed);
                self.mark(offset as usize / PAGE_SIZE);
            }
            drop(gate);
            thread::sleep(BETWEEN_BURSTS);
        }
    }

    fn mark(&self, page: usize) {
        if let Some(dirty) = &self.dirty {
            dirty[page / 64].fetch_or(1 << (page % 64), Ordering::Relaxed);
        }
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
        // Under the lock, so that no writer is between its look and its wait.
        drop(self.shared.gate.lock().expect("no panic while held"));
        self.shared.opened.notify_all();
        for thread in self.threads.drain(..) {
            // A writer that panicked has said so.
            let _ = thread.join();
        }
    }
}
