//! Threads that do the slow work of all forks: they read templates, and fill pages ahead of faults.
//!
//! Each fork has a queue of its own. The queues take turns, so that a fork that asks for much does not hold up the others.
//! Faults go before work ahead, and at least one thread is never busy with work ahead.

use forkd_linux_sys::PAGE_SIZE;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Instant;

/// Pages read at a time: one huge page.
pub(crate) const BUFFER_PAGES: u64 = 512;

/// A fault of a VMM's thread, which waits for a page that must be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub address: u64,
    pub seen: Instant,
}

/// A fork, as the workers see it.
pub(crate) trait WorkSource: Send + Sync {
    /// Serves `fault` with its page, and at most `pages` from there on. `buffer` has room for [`BUFFER_PAGES`].
    fn fetch(&self, fault: Fault, pages: u64, buffer: &mut [u8]);
    /// Does a little work ahead. Returns true if there is more.
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
    queues: VecDeque<ForkQueue>,
    stop: bool,
    working_ahead: usize,
}

struct ForkQueue {
    id: u64,
    source: Arc<dyn WorkSource>,
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

/// A handle that gives work to the threads.
#[derive(Clone)]
pub(crate) struct WorkQueue {
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

    pub fn queue(&self) -> WorkQueue {
        WorkQueue {
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

impl WorkQueue {
    /// Adds a queue for the fork `id`. `ahead`: there is work to do ahead of faults.
    pub fn add(&self, id: u64, source: Arc<dyn WorkSource>, ahead: bool) {
        self.shared.lock().queues.push_back(ForkQueue {
            id,
            source,
            faults: VecDeque::new(),
            fetching: 0,
            ahead: if ahead { Ahead::Waiting } else { Ahead::Nothing },
        });
        self.shared.more.notify_one();
    }

    pub fn fetch(&self, id: u64, fault: Fault, pages: u64) {
        if let Some(queue) = self.shared.lock().queues.iter_mut().find(|queue| queue.id == id) {
            queue.faults.push_back((fault, pages));
        }
        self.shared.more.notify_one();
    }

    /// Removes the queue of the fork `id`. A job that a thread is doing for it is finished.
    pub fn remove(&self, id: u64) {
        self.shared.lock().queues.retain(|queue| queue.id != id);
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
            let Some((id, source, job)) = state.next(self.threads) else {
                state = self.more.wait(state).expect("no panic while held");
                continue;
            };
            drop(state);
            let more = match job {
                Job::Fetch(fault, pages) => {
                    source.fetch(fault, pages, &mut buffer);
                    None
                }
                Job::Ahead => Some(source.work_ahead(&mut buffer)),
            };
            // The reference may be the last to the fork, and close its descriptors. So it is dropped without the lock.
            drop(source);
            state = self.lock();
            state.done(id, more);
            // Another thread may have passed over a queue whose share was used up.
            self.more.notify_one();
        }
    }
}

impl State {
    /// Takes the next job, and moves its queue to the back.
    fn next(&mut self, threads: usize) -> Option<(u64, Arc<dyn WorkSource>, Job)> {
        // No fork may occupy every thread: its template may not answer.
        let share = (threads / 2).max(1);
        let has_fault = |queue: &ForkQueue| !queue.faults.is_empty() && queue.fetching < share;
        if let Some(at) = self.queues.iter().position(has_fault) {
            let mut queue = self.queues.remove(at).expect("just found");
            let (fault, pages) = queue.faults.pop_front().expect("just seen");
            queue.fetching += 1;
            let taken = (queue.id, queue.source.clone(), Job::Fetch(fault, pages));
            self.queues.push_back(queue);
            return Some(taken);
        }
        if self.working_ahead + 1 >= threads {
            return None;
        }
        let at = self.queues.iter().position(|queue| queue.ahead == Ahead::Waiting)?;
        let mut queue = self.queues.remove(at).expect("just found");
        queue.ahead = Ahead::Working;
        self.working_ahead += 1;
        let taken = (queue.id, queue.source.clone(), Job::Ahead);
        self.queues.push_back(queue);
        Some(taken)
    }

    /// Takes note that a job is done. `more`: for work ahead, whether there is more of it.
    fn done(&mut self, id: u64, more: Option<bool>) {
        if more.is_some() {
            self.working_ahead -= 1;
        }
        let Some(queue) = self.queues.iter_mut().find(|queue| queue.id == id) else {
            return;
        };
        match more {
            None => queue.fetching -= 1,
            Some(true) => queue.ahead = Ahead::Waiting,
            Some(false) => queue.ahead = Ahead::Nothing,
        }
    }
}
