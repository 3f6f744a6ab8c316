//! A template that comes as a stream, such as that of a decompressor or of a download.

use super::{Content, Run, SourceError, Template, is_zero};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::Mapping;
use std::io::{self, ErrorKind, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Read from the stream at a time.
const READ_BYTES: usize = 256 << 10;

/// Guest memory from its first page on, which is served as it arrives: pages that are there at once, others as soon as they
/// are. A stream that ends too early, fails, or brings nothing for a while has broken: what it has not brought is never
/// taken for zeros. What has come is kept in memory of this process, and copied to forks.
#[derive(Debug)]
pub struct ArrivingTemplate {
    shared: Arc<Shared>,
    identity: String,
}

#[derive(Debug)]
struct Shared {
    memory: Mapping,
    /// Pages that have come. What is before them never changes again.
    arrived: AtomicU64,
    /// A bit for each page that is not zeros; set before it has arrived.
    data: Box<[AtomicU64]>,
    broken: OnceLock<String>,
    /// How long a stream may bring nothing, and when it last brought something, in milliseconds since the start.
    stall: Duration,
    start: Instant,
    progress: AtomicU64,
    /// The template was dropped: the reader can stop.
    unwanted: AtomicBool,
}

impl ArrivingTemplate {
    /// Reads `pages` pages from `stream`, in a thread of its own. `identity` names what they are; `stall` is how long the
    /// stream may bring nothing before it counts as broken.
    pub fn start(
        stream: impl Read + Send + 'static,
        pages: u64,
        identity: String,
        stall: Duration,
    ) -> io::Result<ArrivingTemplate> {
        if pages == 0 {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "a template has one page at least",
            ));
        }
        let words = pages.div_ceil(64) as usize;
        let shared = Arc::new(Shared {
            memory: Mapping::anonymous(pages as usize * PAGE_SIZE)?,
            arrived: AtomicU64::new(0),
            data: std::iter::repeat_with(AtomicU64::default).take(words).collect(),
            broken: OnceLock::new(),
            stall,
            start: Instant::now(),
            progress: AtomicU64::new(0),
            unwanted: AtomicBool::new(false),
        });
        let theirs = shared.clone();
        std::thread::Builder::new().name("template".into()).spawn(move || {
            if let Err(error) = theirs.receive(stream) {
                theirs.break_off(error.to_string());
            }
        })?;
        Ok(ArrivingTemplate { shared, identity })
    }
}

impl Shared {
    fn pages(&self) -> u64 {
        (self.memory.len() / PAGE_SIZE) as u64
    }

    fn receive(&self, mut stream: impl Read) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        // Of these, bytes that are not a whole page yet.
        let mut filled = 0;
        let mut page = 0;
        while page < self.pages() && !self.unwanted.load(Ordering::Relaxed) {
            let rest = (self.pages() - page) as usize * PAGE_SIZE;
            let read = match stream.read(&mut buffer[filled..rest.min(READ_BYTES)]) {
                Ok(0) => {
                    let what = format!("the stream ended before page {page} of {}", self.pages());
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, what));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read?,
            };
            filled += read;
            let whole = filled - filled % PAGE_SIZE;
            for bytes in buffer[..whole].chunks_exact(PAGE_SIZE) {
                self.keep(page, bytes);
                page += 1;
            }
            buffer.copy_within(whole..filled, 0);
            filled -= whole;
            self.progress.store(self.now(), Ordering::Relaxed);
            self.arrived.store(page, Ordering::Release);
        }
        Ok(())
    }

    fn keep(&self, page: u64, bytes: &[u8]) {
        if is_zero(bytes) {
            return;
        }
        self.memory.write(page as usize * PAGE_SIZE, bytes);
        self.data[page as usize / 64].fetch_or(1 << (page % 64), Ordering::Relaxed);
    }

    fn is_data(&self, page: u64) -> bool {
        self.data[page as usize / 64].load(Ordering::Relaxed) & (1 << (page % 64)) != 0
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn break_off(&self, why: String) {
        // The first reason is the one that tells.
        let _ = self.broken.set(why);
    }

    /// True if more pages can still arrive.
    fn is_coming(&self) -> bool {
        if self.broken.get().is_some() || self.arrived.load(Ordering::Acquire) == self.pages() {
            return false;
        }
        let silent = self.now().saturating_sub(self.progress.load(Ordering::Relaxed));
        if u128::from(silent) < self.stall.as_millis() {
            return true;
        }
        self.break_off(format!("the stream has brought nothing for {:?}", self.stall));
        false
    }
}

impl Template for ArrivingTemplate {
    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn pages(&self) -> u64 {
        self.shared.pages()
    }

    fn arrived(&self) -> u64 {
        self.shared.arrived.load(Ordering::Acquire)
    }

    fn broken(&self) -> Option<String> {
        // A stall is noticed only when a caller asks.
        self.shared.is_coming();
        self.shared.broken.get().cloned()
    }

    fn run(&self, page: u64, limit: u64) -> Run<'_> {
        let arrived = self.arrived();
        if page >= arrived {
            let content = if self.shared.is_coming() {
                Content::Coming
            } else {
                Content::Stored
            };
            let pages = limit.min(self.pages() - page);
            return Run { pages, content };
        }
        let is_data = self.shared.is_data(page);
        let end = (page + limit).min(arrived);
        let pages = (page..end)
            .take_while(|other| self.shared.is_data(*other) == is_data)
            .count();
        let content = if is_data {
            let bytes = self.shared.memory.bytes(page as usize * PAGE_SIZE, pages * PAGE_SIZE);
            Content::Resident(bytes)
        } else {
            Content::Zeros
        };
        Run {
            pages: pages as u64,
            content,
        }
    }

    /// AskedRun for what has not come, and will not.
    fn read(&self, page: u64, _: &mut [u8]) -> Result<(), SourceError> {
        match self.broken() {
            Some(why) => Err(SourceError::Broken(why)),
            None => Err(SourceError::NotYet(format!(
                "page {page} of the template has not come yet"
            ))),
        }
    }
}

impl Drop for ArrivingTemplate {
    fn drop(&mut self) {
        self.shared.unwanted.store(true, Ordering::Relaxed);
    }
}
