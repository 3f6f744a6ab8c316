//! Threads that do what takes time, for all forks: read templates, and fill pages ahead.
//!
//! Each fork has a line of its own; the lines take turns, so that one that asks for much does not hold up the others.
//! Faults go before what is done ahead, and one thread at least is never doing the latter.

use forkd_linux_sys::PAGE_SIZE;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Instant;

/// Pages that are read at a time: a huge page.
pub(crate) const BUFFER_PAGES: u64 = 512;

/// A thread waits for a page, which must be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub address: u64,
    pub seen: Instant,
}

/// Whoever has work done here.
pub(crate) trait Tenant: Send + Sync {
    /// Serves `fault` with its page, and at most `pages` from there on. `buffer` has room for [`BUFFER_PAGES`].
    fn fetch(&self, fault: Fault, pages: u64, buffer: &mut [u8]);
    /// Does a little of what is done ahead. Returns whether there is more.
    fn work_ahead(&self, buffer: &mut [u8]) -> bool;
}

/// The threads. Dropping it waits for them.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    more: Condvar,
    threads: usize,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Line>,
    stop: bool,
    working_ahead: usize,
}

struct Line {
    id: u64,
    tenant: Arc<dyn Tenant>,
    faults: VecDeque<(Fault, u64)>,
    fetching: usize,
    ahead: Ahead,
}

#[derive(PartialEq, Eq)]
enum Ahead {
    Nothing,
    Waiting,
    Working,
}

enum Job {
    Fetch(Fault, u64),
    Ahead,
}

/// How others give work to the threads.
#[derive(Clone)]
pub(crate) struct Desk {
    shared: Arc<Shared>,
}

impl Workers {
    pub fn start(threads: usize) -> io::Result<Workers> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            more: Condvar::new(),
            threads,
        });
        let mut workers = Workers {
            shared,
            threads: Vec::new(),
        };
        for _ in 0..threads {
            let shared = workers.shared.clone();
            let builder = std::thread::Builder::new().name("pages".into());
            workers.threads.push(builder.spawn(move || shared.work())?);
        }
        Ok(workers)
    }

    pub fn desk(&self) -> Desk {
        Desk {
            shared: self.shared.clone(),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.more.notify_all();
        for thread in self.threads.drain(..) {
            thread.join().expect("a worker does not panic");
        }
    }
}

impl Desk {
    /// Opens a line. `ahead` says whether there is anything to do ahead.
    pub fn join(&self, id: u64, tenant: Arc<dyn Tenant>, ahead: bool) {
        self.shared.lock().lines.push_back(Line {
            id,
            tenant,
            faults: VecDeque::new(),
            fetching: 0,
            ahead: if ahead { Ahead::Waiting } else { Ahead::Nothing },
        });
        self.shared.more.notify_one();
    }

    pub fn fetch(&self, id: u64, fault: Fault, pages: u64) {
        if let Some(line) = self.shared.lock().lines.iter_mut().find(|line| line.id == id) {
            line.faults.push_back((fault, pages));
        }
        self.shared.more.notify_one();
    }

    /// Closes the line. What a thread is doing for it comes to its end.
    pub fn leave(&self, id: u64) {
        self.shared.lock().lines.retain(|line| line.id != id);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    fn work(&self) {
        let mut buffer = vec![0u8; BUFFER_PAGES as usize * PAGE_SIZE];
        let mut state = self.lock();
        while !state.stop {
            let Some((id, tenant, job)) = state.next(self.threads) else {
                state = self.more.wait(state).expect("no panic while held");
                continue;
            };
            drop(state);
            let more = match job {
                Job::Fetch(fault, pages) => {
                    tenant.fetch(fault, pages, &mut buffer);
                    None
                }
                Job::Ahead => Some(tenant.work_ahead(&mut buffer)),
            };
            // It may be the last to hold it, and close its descriptors.
            drop(tenant);
            state = self.lock();
            state.done(id, more);
            // Others may have found a line's share used up.
            self.more.notify_one();
        }
    }
}

impl State {
    /// Takes the next job, and moves its line to the end.
    fn next(&mut self, threads: usize) -> Option<(u64, Arc<dyn Tenant>, Job)> {
        // A fork whose template does not answer leaves threads for the others.
        let share = (threads / 2).max(1);
        let has_fault = |line: &Line| !line.faults.is_empty() && line.fetching < share;
        if let Some(at) = self.lines.iter().position(has_fault) {
            let mut line = self.lines.remove(at).expect("just found");
            let (fault, pages) = line.faults.pop_front().expect("just seen");
            line.fetching += 1;
            let taken = (line.id, line.tenant.clone(), Job::Fetch(fault, pages));
            self.lines.push_back(line);
            return Some(taken);
        }
        if self.working_ahead + 1 >= threads {
            return None;
        }
        let at = self.lines.iter().position(|line| line.ahead == Ahead::Waiting)?;
        let mut line = self.lines.remove(at).expect("just found");
        line.ahead = Ahead::Working;
        self.working_ahead += 1;
        let taken = (line.id, line.tenant.clone(), Job::Ahead);
        self.lines.push_back(line);
        Some(taken)
    }

    /// A job has been done; of one that was done ahead, whether there is `more`.
    fn done(&mut self, id: u64, more: Option<bool>) {
        if more.is_some() {
            self.working_ahead -= 1;
        }
        let Some(line) = self.lines.iter_mut().find(|line| line.id == id) else {
            return;
        };
        match more {
            None => line.fetching -= 1,
            Some(true) => line.ahead = Ahead::Waiting,
            Some(false) => line.ahead = Ahead::Nothing,
        }
    }
}
