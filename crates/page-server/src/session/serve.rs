//! The thread of a fork: reads what has happened, and serves at once what can be.

use super::fill::{Advance, CALL_PAGES};
use super::fork::{Fork, KILL_PATIENCE};
use super::options::Ended;
use crate::error::{PageError, Result, Step};
use crate::layout::Region;
use crate::stats::count;
use crate::workers::{Fault, WorkQueue};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::fds::{self, Ready, Wait};
use forkd_linux_sys::sched::Urgent;
use forkd_linux_sys::uffd::{Event, Range};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Pages filled for a fault that does not continue where the one before left off.
const AROUND_MIN: u64 = 4;
/// Faults that were put off are tried again after this time, which doubles.
const PARKED_MIN: Duration = Duration::from_micros(50);
const PARKED_MAX: Duration = Duration::from_millis(16);
/// How often to look for a VMM whose process can no longer be watched.
const WATCH: Duration = Duration::from_millis(50);
/// Events are read at most this many times before anything else is done.
const READS_MAX: usize = 16;
/// How long a VMM that is about to run on by itself may keep freeing memory.
const DETACH_PATIENCE: Duration = Duration::from_secs(2);

/// Serves `fork` until it ends. The workers have a queue for it.
pub(crate) fn serve(fork: &Arc<Fork>, queue: &WorkQueue) -> Ended {
    let faults = Faults {
        fork,
        queue,
        waiting: VecDeque::new(),
        parked: Vec::new(),
        events: Vec::new(),
        writes: Vec::new(),
        next_page: u64::MAX,
        around: AROUND_MIN,
    };
    let ended = {
        let _urgent = Urgent::this_thread();
        faults.run()
    };
    match ended {
        Ok(ended) => ended,
        Err(error) => {
            end_vmm(fork);
            Ended::Failed(error)
        }
    }
}

struct Faults<'a> {
    fork: &'a Arc<Fork>,
    queue: &'a WorkQueue,
    waiting: VecDeque<Fault>,
    parked: Vec<Fault>,
    events: Vec<Event>,
    /// Addresses of protected pages that threads wait to write to.
    writes: Vec<u64>,
    /// The page after those of the last fault, and how many pages that fault was given.
    next_page: u64,
    around: u64,
}

/// Whether the VMM is still there.
#[derive(PartialEq, Eq)]
enum Vmm {
    Lives,
    IsGone,
}

impl Faults<'_> {
    fn run(mut self) -> Result<Ended> {
        let (mut peer_lives, mut connected, mut incomplete) = (true, true, true);
        let mut parked_wait = PARKED_MIN;
        loop {
            let fork = self.fork;
            let mut waits = vec![Wait::readable(&fork.uffd), Wait::readable(&fork.stop)];
            // A descriptor whose other end is gone stays readable, so it is not waited for again.
            let mut also = |wanted: bool, wait| {
                wanted.then(|| {
                    waits.push(wait);
                    waits.len() - 1
                })
            };
            let peer = also(peer_lives, Wait::readable(&fork.peer));
            let stream = also(connected, Wait::ending(&fork.stream));
            let complete = also(incomplete, Wait::readable(&fork.complete));
            let timeout = match (self.parked.is_empty(), peer_lives) {
                (false, _) => Some(parked_wait),
                (true, false) => Some(WATCH),
                (true, true) => None,
            };
            let ready = wait_a_little(&waits, timeout)?;
            let is_ready = |at: Option<usize>| at.is_some_and(|at| ready[at].is_any());

            if ready[1].is_any() {
                return Err(fork.failure().cloned().unwrap_or(PageError::GivenUp));
            }
            if ready[0].failed {
                return Err(unexpected("a userfaultfd that was made to block"));
            }
            if ready[0].read {
                self.read()?;
            }
            let parked_before = self.parked.len();
            self.waiting.extend(self.parked.drain(..));
            if self.serve_waiting()? == Vmm::IsGone {
                return Ok(Ended::VmmGone);
            }
            let progress = parked_before == 0 || self.parked.len() < parked_before;
            parked_wait = if progress {
                PARKED_MIN
            } else {
                (parked_wait * 2).min(PARKED_MAX)
            };

            // The end of the connection may be that of the VMM: old ones hang up at once, and live on.
            let hung_up = is_ready(stream);
            if is_ready(peer) || hung_up || !peer_lives {
                // The process that connected may not be the one that the memory belongs to.
                if !fork.uffd.is_alive() {
                    return Ok(Ended::VmmGone);
                }
                peer_lives &= !is_ready(peer);
                connected &= !hung_up;
            }
            if is_ready(complete) {
                incomplete = false;
                if self.detach()? {
                    return Ok(Ended::Detached);
                }
            }
        }
    }

    /// Reads events, at most [`READS_MAX`] times: a VMM may cause events without end.
    fn read(&mut self) -> Result<()> {
        for _ in 0..READS_MAX {
            let read = self
                .fork
                .read_events(&mut self.events)
                .step("reading the events of a userfaultfd");
            for event in self.events.drain(..) {
                match event {
                    Event::Fault {
                        protected: true,
                        address,
                        ..
                    } => self.writes.push(address),
                    Event::Fault { address, .. } => {
                        let region = self.fork.layout.at(address);
                        let region = region.ok_or(PageError::OutsideRegions { address })?;
                        count(&self.fork.stats.counters.faults, 1);
                        self.fork.in_hand.fetch_add(1, Ordering::Relaxed);
                        let address = address - (address - region.memory.start) % region.page_bytes;
                        let seen = Instant::now();
                        self.waiting.push_back(Fault { address, seen });
                    }
                    // `read_events` has taken note of these.
                    Event::Remove(_) | Event::Unmap(_) => {}
                    Event::Remap { .. } => return Err(unexpected("moved memory")),
                    Event::Fork(_) => return Err(unexpected("a copy of the process")),
                    Event::Unknown(kind) => return Err(unexpected(&format!("an event of kind {kind:#x}"))),
                }
            }
            self.tell_writes()?;
            if read? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Passes write faults on to the capture. Without a capture they are woken, if there was a capture before.
    fn tell_writes(&mut self) -> Result<()> {
        if self.writes.is_empty() {
            return Ok(());
        }
        let watch = self.fork.changes.read().expect("no panic while held");
        let writes = self.writes.drain(..);
        match &watch.queue {
            Some(queue) => queue.push_writes(writes.as_slice()),
            None if watch.was_watched => {
                for start in writes {
                    let end = start + PAGE_SIZE as u64;
                    // The page is no longer protected: the thread only has to look again.
                    self.fork
                        .uffd
                        .wake(Range { start, end })
                        .step("waking threads that wait to write")?;
                }
            }
            None => return Err(unexpected("a write to a protected page")),
        }
        Ok(())
    }

    /// Serves each waiting fault once, or parks it. Events are read between any two faults, so that a thread that frees memory
    /// waits for at most one call.
    fn serve_waiting(&mut self) -> Result<Vmm> {
        while let Some(fault) = self.waiting.pop_front() {
            // The threads of a VMM can fault for as long as it likes.
            if self.fork.failure().is_some() {
                return Ok(Vmm::Lives);
            }
            if self.serve_one(fault)? == Vmm::IsGone {
                return Ok(Vmm::IsGone);
            }
            self.read()?;
        }
        Ok(Vmm::Lives)
    }

    fn serve_one(&mut self, fault: Fault) -> Result<Vmm> {
        let region = *self.fork.layout.at(fault.address).expect("looked up when it was read");
        let page = region.page_at(fault.address);
        let limit = self.limit(&region, page);
        let advance = match self.fork.fill(&region, page, limit, None) {
            Ok(advance) => advance,
            // The kernel ends a process whose memory is torn down with all kinds of errors.
            Err(_) if !self.fork.uffd.is_alive() => Advance::Gone,
            Err(error) => return Err(error).step("filling a page"),
        };
        match advance {
            Advance::Filled(pages) => {
                let pages = self.go_on(&region, page, pages, limit);
                self.next_page = page + pages;
                self.fork.note_asked(page, pages);
            }
            Advance::Present | Advance::NoRange => {
                count(&self.fork.stats.counters.already_there, 1);
                self.fork
                    .wake(&region, page)
                    .step("waking threads that wait for a page")?;
            }
            Advance::Stored(pages) => {
                self.next_page = page + pages;
                self.queue.fetch(self.fork.id, fault, pages);
                return Ok(Vmm::Lives);
            }
            Advance::Changing | Advance::Coming => {
                count(&self.fork.stats.counters.parked, 1);
                self.parked.push(fault);
                return Ok(Vmm::Lives);
            }
            Advance::Gone => return Ok(Vmm::IsGone),
        }
        self.fork.in_hand.fetch_sub(1, Ordering::Relaxed);
        self.fork.stats.waited(fault.seen.elapsed());
        Ok(Vmm::Lives)
    }

    /// Fills more pages after those that were `filled`, for the thread's next accesses, as long as no other fault waits.
    /// Returns how many pages are filled in the end.
    fn go_on(&mut self, region: &Region, page: u64, mut filled: u64, limit: u64) -> u64 {
        let limit = limit.min(region.pages().end - page);
        while filled < limit && self.waiting.is_empty() {
            match self.fork.fill(region, page + filled, limit - filled, None) {
                Ok(Advance::Filled(more)) => filled += more,
                // If it matters, there will be a fault for it.
                _ => break,
            }
        }
        filled
    }

    /// How many pages to fill for a fault: more and more as long as the fork goes from one to the next. What is shared
    /// takes no memory, and as much is mapped as one call does.
    fn limit(&mut self, region: &Region, page: u64) -> u64 {
        if self.fork.is_shared(region) {
            return CALL_PAGES;
        }
        let goes_on = page == self.next_page;
        self.around = if goes_on { self.around * 2 } else { AROUND_MIN }.min(self.fork.fault_around);
        self.around.max(region.unit())
    }

    /// Leaves the VMM to run on by itself, if it has all of its memory.
    fn detach(&mut self) -> Result<bool> {
        if !self.fork.plan.lock().expect("no panic while held").is_whole {
            return Ok(false);
        }
        {
            let mut watch = self.fork.changes.write().expect("no panic while held");
            if watch.was_watched {
                return Ok(false);
            }
            watch.is_over = true;
        }
        // Missing pages are zeros now, or were freed: the kernel fills those itself. Every range is woken again after it is
        // unregistered: the kernel wakes waiting threads *before* it detaches the memory, and a fault in between would hang.
        let uffd = &self.fork.uffd;
        let let_go = |memory: Range| uffd.unregister(memory).and_then(|()| uffd.wake(memory));
        let mut regions = self.fork.layout.regions().iter();
        if !regions.all(|region| let_go(region.memory).is_ok()) {
            return Ok(false);
        }
        // A thread may be inside `madvise`, blocked until its event is read.
        let until = Instant::now() + DETACH_PATIENCE;
        // A VMM that frees memory without end is released when the descriptor is closed.
        while self.fork.uffd.is_changing() && Instant::now() < until && !self.fork.pause(PARKED_MIN) {
            self.read()?;
        }
        Ok(true)
    }
}

fn unexpected(what: &str) -> PageError {
    PageError::Unexpected { what: what.into() }
}

/// Waits for descriptors. Times below a millisecond are slept first, since poll cannot wait for them.
fn wait_a_little(waits: &[Wait<'_>], timeout: Option<Duration>) -> Result<Vec<Ready>> {
    let short = timeout.filter(|time| *time < Duration::from_millis(1));
    short.inspect(|time| std::thread::sleep(*time));
    let timeout = if short.is_some() { Some(Duration::ZERO) } else { timeout };
    fds::look(waits, timeout).step("waiting for faults")
}

/// Ends the VMM, and waits until its memory is gone, so that it cannot see pages turn to zeros.
fn end_vmm(fork: &Arc<Fork>) {
    let until = Instant::now() + KILL_PATIENCE;
    fork.peer.end(KILL_PATIENCE);
    while fork.uffd.is_alive() {
        if Instant::now() > until {
            // The memory belongs to another process, which cannot be ended. The descriptor stays open, so that the process
            // waits for ever rather than read zeros.
            std::mem::forget(fork.clone());
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
