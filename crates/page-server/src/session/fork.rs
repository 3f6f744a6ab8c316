//! The state that the threads of a fork share.

use super::options::{Ended, SessionOptions};
use super::plan::Plan;
use super::watch::Watch;
use crate::error::{PageError, Result, Step};
use crate::handshake::Handshake;
use crate::layout::{Layout, Region};
use crate::record::Record;
use crate::removed::Removed;
use crate::stats::{Stats, count};
use crate::template::Template;
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::fds::EventFd;
use forkd_linux_sys::maps::{self, Mapped};
use forkd_linux_sys::peer::Process;
use forkd_linux_sys::uffd::{Event, Modes, Range, Userfaultfd};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Condvar, Mutex, OnceLock, RwLock};
use std::time::Duration;

/// How long to wait until a killed VMM is gone.
pub(crate) const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// A VMM's memory, and how far it is served.
pub(crate) struct Fork {
    pub id: u64,
    pub uffd: Arc<Userfaultfd>,
    pub peer: Process,
    pub stream: UnixStream,
    pub layout: Layout,
    pub template: Arc<dyn Template>,
    /// For each region, in order: whether it maps the template itself.
    shared: Vec<bool>,
    pub removed: Removed,
    /// Held for writing while events are read and `removed` changes, for reading while pages are filled.
    pub changes: RwLock<Watch>,
    pub stats: Stats,
    pub record: Mutex<Record>,
    pub plan: Mutex<Plan>,
    /// Faults that have been read and not served yet. Work ahead makes way for them.
    pub in_hand: AtomicUsize,
    pub fault_around: u64,
    pub patience: Duration,
    /// Signalled when the session must end.
    pub stop: EventFd,
    /// Signalled when all work ahead of faults is done.
    pub complete: EventFd,
    failure: OnceLock<PageError>,
    ended: Mutex<Option<Ended>>,
    over: Condvar,
}

impl Fork {
    pub fn new(id: u64, handshake: Handshake, template: Arc<dyn Template>, options: SessionOptions) -> Result<Fork> {
        let Handshake {
            peer,
            uffd,
            layout,
            stream,
        } = handshake;
        let regions = layout.regions().iter();
        let shared = regions.map(|region| share(&uffd, peer.pid, region, &*template));
        let shared = shared.collect::<Result<Vec<bool>>>().inspect_err(|_| {
            // The memory cannot be served, and the VMM must not run on with zeros.
            peer.end(KILL_PATIENCE);
        })?;
        let eventfd = || EventFd::new().step("making an eventfd");
        let any_shared = shared.contains(&true);
        Ok(Fork {
            id,
            removed: Removed::none_of(template.pages()),
            plan: Mutex::new(Plan::new(&layout, options.prefetch, options.populate, any_shared)),
            uffd: Arc::new(uffd),
            peer,
            stream,
            layout,
            template,
            shared,
            changes: RwLock::default(),
            stats: Stats::default(),
            record: Mutex::default(),
            in_hand: AtomicUsize::new(0),
            fault_around: options.fault_around.max(1),
            patience: options.patience,
            stop: eventfd()?,
            complete: eventfd()?,
            failure: OnceLock::new(),
            ended: Mutex::default(),
            over: Condvar::new(),
        })
    }

    /// True if the fork maps the template itself in `region`.
    pub fn is_shared(&self, region: &Region) -> bool {
        let at = self.layout.regions().iter().position(|other| other == region);
        at.is_some_and(|at| self.shared[at])
    }

    pub fn is_any_shared(&self) -> bool {
        self.shared.contains(&true)
    }

    /// Reads events, and takes note of freed memory. Returns the number of events.
    pub fn read_events(&self, events: &mut Vec<Event>) -> io::Result<usize> {
        let alone = self.changes.write().expect("no panic while held");
        let before = events.len();
        let read = self.uffd.read_events(events);
        for event in &events[before..] {
            if let Event::Remove(range) | Event::Unmap(range) = event {
                for pages in self.layout.pages_in(*range) {
                    count(&self.stats.counters.removed, pages.end - pages.start);
                    if let Some(queue) = &alone.queue {
                        queue.push_removed(pages.clone());
                    }
                    self.removed.insert(pages);
                }
            }
        }
        read
    }

    /// Fails the session, which its thread ends.
    pub fn fail(&self, error: PageError) {
        let _ = self.failure.set(error);
        self.stop.signal();
    }

    pub fn failure(&self) -> Option<&PageError> {
        self.failure.get()
    }

    pub fn end(&self, how: Ended) {
        *self.ended.lock().expect("no panic while held") = Some(how);
        self.over.notify_all();
    }

    pub fn ended(&self) -> Option<Ended> {
        self.ended.lock().expect("no panic while held").clone()
    }

    pub fn wait_until_ended(&self) -> Ended {
        let ended = self.ended.lock().expect("no panic while held");
        let ended = self.over.wait_while(ended, |ended| ended.is_none());
        ended.expect("no panic while held").clone().expect("just seen")
    }

    /// Waits for `time`, or until the session is over. Returns true if it is over.
    pub fn pause(&self, time: Duration) -> bool {
        let ended = self.ended.lock().expect("no panic while held");
        let waited = self.over.wait_timeout_while(ended, time, |ended| ended.is_none());
        let (ended, _) = waited.expect("no panic while held");
        ended.is_some() || self.failure.get().is_some()
    }
}

/// Returns true if `region` maps the template's own pages, and registers it then, so that each page faults once.
fn share(uffd: &Userfaultfd, pid: i32, region: &Region, template: &dyn Template) -> Result<bool> {
    let mappings = match maps::mappings(pid, region.memory) {
        // Another user's process, of which only the userfaultfd is ours: as with any VMM whose memory is its own.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
        mappings => mappings.step("reading what the VMM has mapped")?,
    };
    let (mut next, mut is_template) = (region.memory.start, true);
    for mapped in mappings {
        let start = mapped.range.start.max(region.memory.start);
        let end = mapped.range.end.min(region.memory.end);
        let piece = Mapped {
            range: Range { start, end },
            offset: mapped.offset + (start - mapped.range.start),
            ..mapped
        };
        let page = region.page + (start - region.memory.start) / PAGE_SIZE as u64;
        let is_piece = template.is_mapped_by(&piece, page);
        if mapped.private && mapped.file.is_file() && !region.is_huge() && !is_piece {
            // The kernel would give its pages without asking, whatever they are.
            return Err(PageError::OtherFile { address: start });
        }
        is_template &= is_piece && start == next;
        next = end;
    }
    if !is_template || next != region.memory.end {
        return Ok(false);
    }
    let modes = Modes {
        missing: true,
        minor: true,
        write_protect: false,
    };
    uffd.register(region.memory, modes).step("registering shared memory")?;
    Ok(true)
}
