//! The arms of the comparison, and how each is measured.

use crate::plain;
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::{self, Mapping};
use forkd_page_server::{MemoryTemplate, PageServer, Record, ServerOptions, Session, SessionOptions, Template};
use forkd_vmm_stand_in::Vmm;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arm {
    /// The kernel maps the file, privately.
    Mapped,
    /// A thread a fork, a page a fault.
    PlainCopy,
    Copy,
    CopyPrefetched,
    Shared,
    SharedPrefetched,
}

pub const ARMS: [Arm; 6] = [
    Arm::Mapped,
    Arm::PlainCopy,
    Arm::Copy,
    Arm::CopyPrefetched,
    Arm::Shared,
    Arm::SharedPrefetched,
];

/// Result of one arm.
#[derive(Debug, Serialize)]
pub struct Row {
    forks: u64,
    order: &'static str,
    arm: Arm,
    /// Time until the last fork has read its last page.
    ms: u64,
    pages_per_s: u64,
    /// Reads that took a microsecond or more: they met a fault, or lost the processor.
    waits: u64,
    p50_ns: u64,
    p99_ns: u64,
    max_ns: u64,
    /// All forks together: what is their own, and with their share of what is shared.
    own_mib: u64,
    all_mib: u64,
}

/// No read that meets a fault is faster.
const WAIT_NS_MIN: u64 = 1000;
const WAIT_NS_MAX: u64 = 60_000_000_000;
/// Step of a scattered read: every n-th page first.
const STEP: u64 = 61;

pub struct Bench {
    template: Arc<MemoryTemplate>,
    content: Arc<Mapping>,
    everything: [Record; 2],
    mib: u64,
    dir: PathBuf,
}

struct Fork {
    vmm: Vmm,
    _session: Option<Session>,
}

impl Bench {
    pub fn new(mib: u64) -> Result<Bench, Box<dyn Error>> {
        let pages = mib << 8;
        let file = memfd::create(c"bench-template", mib << 20)?;
        let target = Mapping::read_write(&file, (mib << 20) as usize)?;
        for page in 0..pages {
            // No page is zeros, so none is left out.
            let bytes: Vec<u8> = (1..=PAGE_SIZE as u64 / 8)
                .flat_map(|word| (page << 9 | word).to_ne_bytes())
                .collect();
            target.write(page as usize * PAGE_SIZE, &bytes);
        }
        drop(target);
        memfd::seal(&file)?;
        let content = Arc::new(Mapping::read_only(&file, (mib << 20) as usize)?);
        let dir = std::env::temp_dir().join(format!("forkd-pages-bench-{}", std::process::id()));
        std::fs::create_dir(&dir)?;
        let mut everything = [Record::default(), Record::default()];
        everything[0].note(0, pages);
        let scattered = (0..STEP).flat_map(|from| (from..pages).step_by(STEP as usize));
        scattered.for_each(|page| everything[1].note(page, 1));
        Ok(Bench {
            template: Arc::new(MemoryTemplate::new(file, "bench".into())?),
            content,
            everything,
            mib,
            dir,
        })
    }

    pub fn measure(&self, arm: Arm, forks: u64, order: &'static str) -> Result<Row, Box<dyn Error>> {
        let server = PageServer::start(ServerOptions::default())?;
        let step = if order == "scattered" { STEP } else { 1 };
        let mut all = (0..forks)
            .map(|index| self.start(&server, arm, index, step))
            .collect::<Result<Vec<_>, _>>()?;
        let pages = self.template.pages();
        let start = Instant::now();
        for fork in &mut all {
            fork.vmm.begin(&format!("time 0 {pages} {step}"))?;
        }
        let mut waits = Histogram::<u64>::new_with_max(WAIT_NS_MAX, 2)?;
        let mut answers = Vec::new();
        for fork in &mut all {
            answers.push(fork.vmm.answer()?);
        }
        let time = start.elapsed();
        for answer in &answers {
            let times = answer["ns"].as_array().ok_or("an answer without times")?;
            times
                .iter()
                .filter_map(|ns| ns.as_u64())
                .filter(|ns| *ns >= WAIT_NS_MIN)
                .for_each(|ns| waits.saturating_record(ns));
        }
        let (mut own_kib, mut all_kib) = (0, 0);
        for fork in &mut all {
            let memory = fork.vmm.order("memory")?;
            own_kib += memory["anonymous_kib"].as_u64().unwrap_or(0);
            all_kib += memory["pss_kib"].as_u64().unwrap_or(0);
        }
        Ok(Row {
            forks,
            order,
            arm,
            ms: time.as_millis() as u64,
            pages_per_s: ((forks * pages) as f64 / time.as_secs_f64()) as u64,
            waits: waits.len(),
            p50_ns: waits.value_at_quantile(0.5),
            p99_ns: waits.value_at_quantile(0.99),
            max_ns: waits.max(),
            own_mib: own_kib >> 10,
            all_mib: all_kib >> 10,
        })
    }

    fn start(&self, server: &PageServer, arm: Arm, index: u64, step: u64) -> Result<Fork, Box<dyn Error>> {
        let regions = self.mib.to_string();
        let template = path_of(self.template.file());
        let shared = !matches!(arm, Arm::PlainCopy | Arm::Copy | Arm::CopyPrefetched);
        let memory = if shared { template.as_str() } else { "anonymous" };
        let arguments = ["--regions", &regions, "--memory", memory];
        if arm == Arm::Mapped {
            let mut vmm = Vmm::start(Path::new("-"), &arguments)?;
            vmm.answer()?;
            return Ok(Fork { vmm, _session: None });
        }
        let path = self.dir.join(format!("{index}.sock"));
        let listener = UnixListener::bind(&path)?;
        let mut vmm = Vmm::start(&path, &arguments)?;
        let (stream, _) = listener.accept()?;
        std::fs::remove_file(&path)?;
        let session = if arm == Arm::PlainCopy {
            let content = self.content.clone();
            // The thread ends with the VMM.
            std::thread::spawn(move || plain::serve(&stream, &content));
            None
        } else {
            let prefetched = matches!(arm, Arm::CopyPrefetched | Arm::SharedPrefetched);
            let options = SessionOptions {
                prefetch: prefetched.then(|| self.everything[usize::from(step > 1)].clone()),
                ..SessionOptions::default()
            };
            Some(server.serve(stream, self.template.clone(), options)?)
        };
        vmm.answer()?;
        Ok(Fork { vmm, _session: session })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Row {
    pub const HEAD: &str =
        "forks order      what              pages/s     waits    p50 us    p99 us    max us   own MiB   all MiB";
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |ns: u64| ns as f64 / 1000.0;
        write!(
            f,
            "{:5} {:10} {:16} {:8} {:9} {:9.1} {:9.1} {:9.1} {:9} {:9}",
            self.forks,
            self.order,
            format!("{:?}", self.arm),
            self.pages_per_s,
            self.waits,
            us(self.p50_ns),
            us(self.p99_ns),
            us(self.max_ns),
            self.own_mib,
            self.all_mib
        )
    }
}

fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}
