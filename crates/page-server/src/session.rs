//! One fork being served.

mod ahead;
mod fetch;
mod fill;
mod fork;
mod serve;
mod watch;

pub(crate) use fork::Fork;
pub(crate) use serve::serve;

use crate::error::PageError;
use crate::record::Record;
use crate::stats::Summary;
use crate::workers::Workers;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How a fork is served.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// Pages of 4 KiB that are filled for one fault, at most: many where a fork asks for one after the other, few where
    /// it does not.
    pub fault_around: u64,
    /// How long a template that does not answer is asked again.
    pub patience: Duration,
    /// What another fork of the template asked for: it is filled in that order before this one asks.
    pub prefetch: Option<Record>,
    /// All of memory is filled, and then the VMM left to itself.
    pub populate: bool,
}

impl Default for SessionOptions {
    fn default() -> SessionOptions {
        SessionOptions {
            fault_around: 32,
            patience: Duration::from_secs(5),
            prefetch: None,
            populate: false,
        }
    }
}

/// How a session came to its end.
#[derive(Debug, Clone)]
pub enum Ended {
    /// The VMM has ended.
    VmmGone,
    /// The VMM has all of its memory, and needs nobody any more.
    Detached,
    /// It could not be served any longer, and has been ended: its memory must not be taken for zeros.
    Failed(PageError),
}

/// A fork that is served until its VMM ends. One that is dropped before has its VMM ended: without a server its next fault
/// would never be answered, or with zeros.
pub struct Session {
    fork: Arc<Fork>,
    thread: Option<JoinHandle<()>>,
    /// They work for it, whatever becomes of the server.
    _workers: Arc<Workers>,
}

impl Session {
    pub(crate) fn new(fork: Arc<Fork>, thread: JoinHandle<()>, workers: Arc<Workers>) -> Session {
        Session {
            fork,
            thread: Some(thread),
            _workers: workers,
        }
    }

    pub(crate) fn fork(&self) -> &Arc<Fork> {
        &self.fork
    }

    /// The process at the other end.
    pub fn pid(&self) -> i32 {
        self.fork.peer.pid
    }

    pub fn stats(&self) -> Summary {
        self.fork.stats.summary()
    }

    /// Whether any of its memory is the template's own, shared with other forks.
    pub fn is_shared(&self) -> bool {
        self.fork.is_any_shared()
    }

    /// What it has asked for so far, in order.
    pub fn record(&self) -> Record {
        self.fork.record.lock().expect("no panic while held").clone()
    }

    /// `None` while it is served.
    pub fn ended(&self) -> Option<Ended> {
        self.fork.ended()
    }

    /// Waits until it has ended.
    pub fn wait(mut self) -> Ended {
        self.join();
        self.fork.ended().expect("its thread says so before it ends")
    }

    /// The same for one of several owners.
    pub fn wait_until_ended(&self) -> Ended {
        self.fork.wait_until_ended()
    }

    /// Ends the VMM, unless it has ended or been left to itself.
    pub fn give_up(&self) {
        self.fork.fail(PageError::GivenUp);
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a session's thread does not panic");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.give_up();
            self.join();
        }
    }
}
