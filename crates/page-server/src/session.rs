//! One fork being served.

mod ahead;
mod fetch;
mod fill;
mod fork;
mod options;
mod plan;
mod serve;
mod watch;
mod watching;

pub(crate) use fork::Fork;
pub use options::{Ended, SessionOptions};
pub(crate) use serve::serve;

use crate::error::PageError;
use crate::record::Record;
use crate::stats::Summary;
use crate::workers::Workers;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A fork that is served until its VMM ends. Dropping a session before that ends the VMM: without a server, its next fault would
/// never be answered, or be answered with zeros.
pub struct Session {
    fork: Arc<Fork>,
    thread: Option<JoinHandle<()>>,
    /// Keeps the worker threads alive even if the server is dropped.
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

    /// The process number of the VMM.
    pub fn pid(&self) -> i32 {
        self.fork.peer.pid
    }

    pub fn stats(&self) -> Summary {
        self.fork.stats.summary()
    }

    /// True if the fork maps any of the template's own memory, shared with other forks.
    pub fn is_shared(&self) -> bool {
        self.fork.is_any_shared()
    }

    /// The pages that the fork has asked for so far, in order.
    pub fn record(&self) -> Record {
        self.fork.record.lock().expect("no panic while held").clone()
    }

    /// How the session ended. `None` while the fork is served.
    pub fn ended(&self) -> Option<Ended> {
        self.fork.ended()
    }

    /// Waits until the session has ended.
    pub fn wait(mut self) -> Ended {
        self.join();
        self.fork.ended().expect("its thread says so before it ends")
    }

    /// As [`Session::wait`], for one of several owners.
    pub fn wait_until_ended(&self) -> Ended {
        self.fork.wait_until_ended()
    }

    /// Ends the VMM, unless it has ended or runs on by itself.
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
