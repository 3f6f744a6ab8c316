//! Threads that write, read and free memory all the time, and know at each moment what must be there. An image of the
//! memory is compared with that knowledge, which needs no access to the memory.

use crate::pattern::{self, WORDS};
use crate::regions::Regions;
use forkd_linux_sys::PAGE_SIZE;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// Number of writers. Every n-th page belongs to one writer.
const WRITERS: u64 = 3;
/// Steps of a writer before it checks whether to continue.
const BURST: u64 = 64;
/// Most of what it does is near to where it is, which moves on by a page every so many steps.
const NEAR_PAGES: u64 = 32;
const STEPS_A_PAGE: u64 = 64;

pub struct Storm {
    shared: Arc<Shared>,
}

struct Shared {
    regions: Arc<Regions>,
    gate: Mutex<Gate>,
    changed: Condvar,
    writers: Vec<Mutex<Writer>>,
}

#[derive(Default)]
struct Gate {
    runs: bool,
    removes: bool,
    started: bool,
}

/// A thread's, which nobody else changes.
#[derive(Default)]
struct Writer {
    seed: u64,
    steps: u64,
    removed: u64,
    wrong: u64,
    /// The pages that it has changed, as they must be.
    known: HashMap<u64, Vec<u64>>,
}

impl Storm {
    pub fn new(regions: &Arc<Regions>) -> Storm {
        let seeded = |seed| {
            Mutex::new(Writer {
                seed,
                ..Writer::default()
            })
        };
        Storm {
            shared: Arc::new(Shared {
                regions: regions.clone(),
                gate: Mutex::default(),
                changed: Condvar::new(),
                writers: (0..WRITERS).map(seeded).collect(),
            }),
        }
    }

    pub fn start(&self, removes: bool) -> Value {
        let mut gate = self.shared.gate.lock().expect("no panic while held");
        if !gate.started {
            for index in 0..WRITERS {
                let shared = self.shared.clone();
                std::thread::spawn(move || shared.work(index));
            }
        }
        *gate = Gate {
            runs: true,
            removes,
            started: true,
        };
        self.shared.changed.notify_all();
        json!({ "runs": true })
    }

    /// Every writer has finished its step when this returns.
    pub fn stop(&self) -> Value {
        self.shared.gate.lock().expect("no panic while held").runs = false;
        let writers: Vec<MutexGuard<'_, Writer>> = self.shared.writers.iter().map(lock).collect();
        let sum = |count: fn(&Writer) -> u64| writers.iter().map(|writer| count(writer)).sum::<u64>();
        json!({ "steps": sum(|w| w.steps), "removed": sum(|w| w.removed), "wrong": sum(|w| w.wrong) })
    }

    pub fn write_expected(&self, path: &str) -> Result<Value, String> {
        let writers: Vec<MutexGuard<'_, Writer>> = self.shared.writers.iter().map(lock).collect();
        let written = File::create(path).and_then(|file| {
            let mut out = BufWriter::new(file);
            for page in 0..(self.shared.regions.len() / PAGE_SIZE) as u64 {
                match writers[(page % WRITERS) as usize].known.get(&page) {
                    Some(words) => words.iter().try_for_each(|word| out.write_all(&word.to_ne_bytes()))?,
                    None => out.write_all(&pattern::bytes(page))?,
                }
            }
            out.flush()
        });
        written
            .map(|()| json!({ "written": true }))
            .map_err(|error| error.to_string())
    }
}

impl Shared {
    fn work(&self, index: u64) {
        loop {
            let gate = self.gate.lock().expect("no panic while held");
            let gate = self
                .changed
                .wait_while(gate, |gate| !gate.runs)
                .expect("no panic while held");
            let removes = gate.removes;
            // Take the writer before the gate is released: the thread that closes the gate finds this writer at work, or
            // stopped.
            let mut writer = lock(&self.writers[index as usize]);
            drop(gate);
            for _ in 0..BURST {
                self.step(index, &mut writer, removes);
            }
        }
    }

    fn step(&self, index: u64, writer: &mut Writer, removes: bool) {
        let pages = (self.regions.len() / PAGE_SIZE) as u64 / WRITERS;
        writer.steps += 1;
        let at = match writer.random() % 64 {
            0 => writer.random() % pages,
            near => (writer.steps / STEPS_A_PAGE + near % NEAR_PAGES) % pages,
        };
        let page = at * WRITERS + index;
        let (region, start) = self.regions.at(page as usize * PAGE_SIZE);
        let word = (writer.random() % WORDS as u64) as usize;
        let value = writer.random();
        match value % 8 {
            0 if removes && value.is_multiple_of(512) => {
                region.give_back(start, PAGE_SIZE).expect("memory can be given back");
                writer.known.insert(page, vec![0; WORDS]);
                writer.removed += 1;
            }
            0..4 => {
                let known = writer
                    .known
                    .get(&page)
                    .map_or_else(|| pattern::word(page, word), |words| words[word]);
                let found = region.word(start + word * 8).load(Ordering::SeqCst);
                writer.wrong += u64::from(found != known);
            }
            _ => {
                region.word(start + word * 8).store(value, Ordering::SeqCst);
                let pristine = || (0..WORDS).map(|index| pattern::word(page, index)).collect();
                writer.known.entry(page).or_insert_with(pristine)[word] = value;
            }
        }
    }
}

impl Writer {
    fn random(&mut self) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.seed >> 33
    }
}

fn lock(writer: &Mutex<Writer>) -> MutexGuard<'_, Writer> {
    writer.lock().expect("no panic while held")
}
