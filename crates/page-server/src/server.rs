//! The server of all forks, of any number of templates.

use crate::error::{PageError, Result, Step};
use crate::handshake::Handshake;
use crate::session::{Ended, Fork, Session, SessionOptions, serve};
use crate::stats::{Stats, Summary};
use crate::template::Template;
use crate::workers::{WorkQueue, Workers};
use forkd_linux_sys::{PAGE_SIZE, uffd};
use serde::Serialize;
use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long a socket that is made for a VMM waits for the VMM to connect.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(60);

/// The limits of a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Forks at the same time, those included whose handshake is awaited.
    pub forks_max: usize,
    /// Threads that read templates and fill ahead, for all forks together; two at least.
    pub workers: usize,
    /// How long a VMM may take for its handshake.
    pub handshake_patience: Duration,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        let processors = std::thread::available_parallelism().map_or(2, |count| count.get());
        ServerOptions {
            forks_max: 1024,
            // The threads wait more than they work.
            workers: (2 * processors).clamp(4, 16),
            handshake_patience: Duration::from_secs(10),
        }
    }
}

/// How a server is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Being served, and still in their handshake.
    pub forks: usize,
    pub handshakes: usize,
    pub draining: bool,
    /// Since it was started: those that were accepted, that failed later, and that were not accepted.
    pub accepted: u64,
    pub failed: u64,
    pub refused: u64,
}

/// Serves memory. It knows nothing of where its connections come from.
pub struct PageServer {
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    options: ServerOptions,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    fewer: Condvar,
}

#[derive(Default)]
struct State {
    live: HashMap<u64, Arc<Fork>>,
    health: Health,
    next_id: u64,
    /// The statistics of forks that have ended.
    past: Stats,
}

impl PageServer {
    pub fn start(options: ServerOptions) -> Result<PageServer> {
        if !uffd::exists() {
            return Err(PageError::Unsupported);
        }
        Ok(PageServer {
            shared: Arc::default(),
            workers: Arc::new(Workers::start(options.workers.max(2)).step("starting threads")?),
            options,
        })
    }

    /// Receives the handshake of the VMM at the other end of `stream`, and serves its memory from `template` from then on. If the
    /// handshake fails, the VMM is hung up on.
    pub fn serve(&self, stream: UnixStream, template: Arc<dyn Template>, options: SessionOptions) -> Result<Session> {
        let id = self.shared.admit(self.options.forks_max)?;
        let template_bytes = template.pages() * PAGE_SIZE as u64;
        let fork = Handshake::receive(stream, template_bytes, self.options.handshake_patience)
            .map_err(PageError::from)
            .and_then(|handshake| Fork::new(id, handshake, template, options));
        let fork = self.shared.accept(id, fork)?;
        let queue = self.workers.queue();
        let ahead = !fork.plan.lock().expect("no panic while held").is_empty();
        queue.add(id, fork.clone(), ahead);
        let (theirs, shared, jobs) = (fork.clone(), self.shared.clone(), queue.clone());
        let builder = std::thread::Builder::new().name(format!("fork-{id}"));
        match builder
            .spawn(move || run(&theirs, &jobs, &shared))
            .step("starting a thread")
        {
            Ok(thread) => Ok(Session::new(fork, thread, self.workers.clone())),
            Err(error) => {
                // The VMM has handed over its memory already.
                let _ = fork.peer.kill();
                queue.remove(id);
                self.shared.end(&fork, Ended::Failed(error.clone()));
                Err(error)
            }
        }
    }

    pub fn health(&self) -> Health {
        let state = self.shared.lock();
        Health {
            forks: state.live.len(),
            ..state.health.clone()
        }
    }

    /// The statistics of all forks, including those that have ended.
    pub fn stats(&self) -> Summary {
        let state = self.shared.lock();
        let total = Stats::default();
        total.add(&state.past);
        state.live.values().for_each(|fork| total.add(&fork.stats));
        total.summary()
    }

    /// Takes no new forks from now on, and waits until the last one has ended. Returns whether it has, within `patience`.
    pub fn drain(&self, patience: Duration) -> bool {
        let mut state = self.shared.lock();
        state.health.draining = true;
        let until = Instant::now() + patience;
        while !state.live.is_empty() || state.health.handshakes > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self
                .shared
                .fewer
                .wait_timeout(state, left)
                .expect("no panic while held")
                .0;
        }
        true
    }
}

fn run(fork: &Arc<Fork>, queue: &WorkQueue, shared: &Shared) {
    let ended = serve(fork, queue);
    queue.remove(fork.id);
    shared.end(fork, ended);
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// Takes a place for a handshake.
    fn admit(&self, limit: usize) -> Result<u64> {
        let mut state = self.lock();
        let full = state.live.len() + state.health.handshakes >= limit;
        if full || state.health.draining {
            state.health.refused += 1;
            return Err(if full {
                PageError::Full { limit }
            } else {
                PageError::Draining
            });
        }
        state.health.handshakes += 1;
        state.next_id += 1;
        Ok(state.next_id)
    }

    fn accept(&self, id: u64, fork: Result<Fork>) -> Result<Arc<Fork>> {
        let mut state = self.lock();
        state.health.handshakes -= 1;
        self.fewer.notify_all();
        match fork {
            Ok(fork) => {
                let fork = Arc::new(fork);
                state.live.insert(id, fork.clone());
                state.health.accepted += 1;
                Ok(fork)
            }
            Err(error) => {
                state.health.refused += 1;
                Err(error)
            }
        }
    }

    fn end(&self, fork: &Fork, ended: Ended) {
        let mut state = self.lock();
        state.live.remove(&fork.id);
        state.past.add(&fork.stats);
        state.health.failed += u64::from(matches!(ended, Ended::Failed(_)));
        fork.end(ended);
        self.fewer.notify_all();
    }
}
