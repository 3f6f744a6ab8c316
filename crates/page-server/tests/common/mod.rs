//! A template, and forks of it: real processes with real userfaultfds, served by this one.

#![allow(dead_code, reason = "each test uses a part of it")]

use forkd_capture::{Run, Sink};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::{self, Mapping};
use forkd_page_server::{
    Ended, MemoryTemplate, PageServer, ReadableSink, ServerOptions, Session, SessionOptions, Summary, Template,
};
use forkd_vmm_stand_in::{Vmm, pattern};
use serde_json::Value;
use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const MIB_PAGES: u64 = 256;

/// A directory that is gone afterwards.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("forkd-pages-{}-{serial}", std::process::id()));
        std::fs::create_dir(&path).expect("a directory");
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A sealed template of so many pages, with the pattern that the stand-in looks for.
pub fn template(pages: u64) -> Arc<MemoryTemplate> {
    let bytes = pages as usize * PAGE_SIZE;
    let file = memfd::create(c"test-template", bytes as u64).expect("a memfd");
    let target = Mapping::read_write(&file, bytes).expect("a mapping");
    for page in (0..pages).filter(|page| !pattern::is_zero(*page)) {
        target.write(page as usize * PAGE_SIZE, &pattern::bytes(page));
    }
    drop(target);
    memfd::seal(&file).expect("nobody has it mapped for writing");
    Arc::new(MemoryTemplate::new(file, format!("test:{pages}")).expect("a template"))
}

/// The same as a file.
pub fn template_file(path: &Path, pages: u64) {
    let bytes: Vec<u8> = (0..pages).flat_map(pattern::bytes).collect();
    std::fs::write(path, bytes).expect("a file");
}

/// What the stand-in opens to map the template itself.
pub fn path_of(template: &MemoryTemplate) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), template.file().as_raw_fd())
}

pub fn server() -> PageServer {
    let options = ServerOptions {
        handshake_patience: Duration::from_secs(5),
        ..ServerOptions::default()
    };
    PageServer::start(options).expect("a server")
}

/// A VMM and the session that serves it.
pub struct Fork {
    pub vmm: Vmm,
    pub session: Session,
}

pub fn fork(server: &PageServer, template: &Arc<impl Template>, arguments: &[&str], options: SessionOptions) -> Fork {
    let dir = Dir::new();
    let path = dir.0.join("uffd.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let mut vmm = Vmm::start(&path, arguments).expect("a stand-in");
    let (stream, _) = listener.accept().expect("it connects");
    let session = server.serve(stream, template.clone(), options).expect("a handshake");
    assert_eq!(session.pid() as u32, vmm.pid());
    vmm.answer().expect("it is ready");
    Fork { vmm, session }
}

impl Fork {
    pub fn order(&mut self, order: &str) -> Value {
        self.vmm.order(order).expect(order)
    }

    /// All of `pages` pages have what they should have.
    pub fn verify(&mut self, pages: u64, threads: u64) {
        let answer = self.order(&format!("verify 0 {pages} {threads}"));
        assert_eq!(answer["bad"], 0, "{answer}");
    }

    /// Ends the VMM, and waits until that has been noticed.
    pub fn end(mut self) -> Summary {
        self.vmm.kill().expect("it lives");
        let ended = wait_for_end(&self.session);
        assert!(matches!(ended, Ended::VmmGone), "{ended:?}");
        self.session.stats()
    }
}

const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// Huge pages that this host has set aside for a test, until it is over, however it ends.
pub struct HugePages {
    count: u64,
}

impl HugePages {
    /// So many more than there are. The reason, where the host refuses.
    pub fn reserve(count: u64) -> Result<HugePages, String> {
        let before = huge_pages().map_err(|error| format!("this kernel has no pages of 2 MiB: {error}"))?;
        let refused = |why: String| format!("no pages of 2 MiB can be set aside here: {why}");
        std::fs::write(HUGE_PAGES, (before + count).to_string()).map_err(|error| refused(error.to_string()))?;
        // The kernel sets aside what it finds.
        let reserved = HugePages {
            count: huge_pages().unwrap_or(before).saturating_sub(before),
        };
        if reserved.count < count {
            return Err(refused(format!("of {count} there was room for {}", reserved.count)));
        }
        Ok(reserved)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // Others may have changed the number meanwhile.
        let now = huge_pages().unwrap_or(self.count);
        let _ = std::fs::write(HUGE_PAGES, now.saturating_sub(self.count).to_string());
    }
}

fn huge_pages() -> std::io::Result<u64> {
    let text = std::fs::read_to_string(HUGE_PAGES)?;
    text.trim().parse().map_err(std::io::Error::other)
}

/// An image that keeps each page, which comes once.
#[derive(Default)]
pub struct Image(pub Mutex<HashMap<u64, Vec<u8>>>);

impl Sink for Image {
    fn put(&self, run: Run, bytes: &[u8]) -> io::Result<()> {
        let mut pages = self.0.lock().expect("no panic while held");
        for (page, bytes) in (run.page..).zip(bytes.chunks(PAGE_SIZE)) {
            assert!(pages.insert(page, bytes.to_vec()).is_none(), "page {page} comes once");
        }
        Ok(())
    }
}

impl ReadableSink for Image {
    fn read(&self, page: u64, buffer: &mut [u8]) -> io::Result<()> {
        let pages = self.0.lock().expect("no panic while held");
        buffer.copy_from_slice(pages.get(&page).ok_or(io::ErrorKind::NotFound)?);
        Ok(())
    }
}

/// Lets the guest get on by so many steps.
pub fn storm(fork: &mut Fork, steps: u64, removals: bool) {
    fork.order(&format!("storm {}", u64::from(removals)));
    let before = fork.order("still")["steps"].as_u64().expect("a number");
    loop {
        fork.order(&format!("storm {}", u64::from(removals)));
        std::thread::yield_now();
        let answer = fork.order("still");
        assert_eq!(answer["wrong"], 0, "{answer}");
        if answer["steps"].as_u64() >= Some(before + steps) {
            return;
        }
    }
}

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < limit, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn wait_for_end(session: &Session) -> Ended {
    until("a session has ended", || session.ended().is_some());
    session.ended().expect("just seen")
}

/// Not by `eprintln`, which the test runner keeps to itself.
pub fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}
