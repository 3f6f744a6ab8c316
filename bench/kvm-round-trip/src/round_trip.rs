//! Branches a running machine, and starts another from the branch.

use crate::guest;
use crate::machine::{Running, Stopped};
use forkd_capture::{Run, Sink, Statistics, Target, WpBranch};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::kvm::{Kvm, Registers};
use forkd_linux_sys::memfd;
use forkd_linux_sys::uffd::Range;
use std::error::Error;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The guest is waited for this long between the instant and the copy, so that it writes to pages that are not copied yet.
const REPORTS_BEFORE_COPY: usize = 2;

/// The memory of a machine, to be branched as often as one likes.
pub struct Source {
    target: Target,
    below: Arc<File>,
}

impl Source {
    pub fn of(machine: &Stopped) -> Result<Source> {
        let memory = machine.memory();
        let start = memory.target(0, memory.len()) as u64;
        let end = start + memory.len() as u64;
        Ok(Source {
            target: Target::own(Range { start, end })?,
            below: machine.below().clone(),
        })
    }
}

/// A machine as it was at one instant.
pub struct Snapshot {
    /// All of its memory: what was below, and over it the pages that the machine had written.
    memory: Arc<File>,
    pub registers: Registers,
}

/// Cost and findings of a branch.
pub struct Outcome {
    pub snapshot: Snapshot,
    pub pages: u64,
    pub statistics: Statistics,
    /// Pause of the processor: from the kick until it was started again, without the time for the reference copy.
    pub pause: Duration,
    /// Pages that differ from a copy made while the processor was stopped.
    pub differing_pages: usize,
    /// Pages that do not have what the registers say they must.
    pub wrong_pages: usize,
    /// Reports of the source since the instant, from the first one.
    pub reports: Vec<u32>,
}

/// Branches a machine, which keeps running. `source` belongs to that machine.
pub fn branch(source: &Source, running: Running) -> Result<(Running, Outcome)> {
    let sink = Arc::new(Image::over(&source.below)?);
    let mut branch = WpBranch::arm(source.target.clone(), sink.clone())?;
    let kicked = Instant::now();
    let machine = running.stop()?;
    branch.take()?;
    let registers = machine.registers()?;
    let before_reference = Instant::now();
    let reference = machine.bytes().to_vec();
    let reference_took = before_reference.elapsed();
    let mut running = machine.run();
    let pause = kicked.elapsed() - reference_took;
    let reports = running.reports(REPORTS_BEFORE_COPY)?;
    branch.copy(|| false)?;
    let (set, statistics) = branch.finish()?;
    let captured = all_of(&sink.file)?;
    let pages = captured.chunks_exact(PAGE_SIZE).zip(reference.chunks_exact(PAGE_SIZE));
    let outcome = Outcome {
        pages: set.len(),
        statistics,
        pause,
        differing_pages: pages.filter(|(captured, reference)| captured != reference).count(),
        wrong_pages: guest::wrong_pages(&captured, guest::steps(&registers)).len(),
        reports,
        snapshot: Snapshot {
            memory: sink.file.clone(),
            registers,
        },
    };
    Ok((running, outcome))
}

impl Snapshot {
    /// Creates a machine that continues from the instant.
    pub fn restore(&self, kvm: &Kvm) -> Result<Stopped> {
        let mut machine = Stopped::over(kvm, self.memory.clone())?;
        machine.set_registers(&self.registers)?;
        Ok(machine)
    }
}

/// The memory of a snapshot, in the making.
struct Image {
    file: Arc<File>,
}

impl Image {
    fn over(below: &File) -> io::Result<Image> {
        let image = Image {
            file: Arc::new(memfd::create(c"forkd-snapshot", 0)?),
        };
        image.file.write_all_at(&all_of(below)?, 0)?;
        Ok(image)
    }
}

fn all_of(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; guest::PAGES as usize * PAGE_SIZE];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

impl Sink for Image {
    fn put(&self, run: Run, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, run.page * PAGE_SIZE as u64)
    }
}
