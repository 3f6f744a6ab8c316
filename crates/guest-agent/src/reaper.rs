//! Waits for every child, also those that the kernel gives to PID 1, and tells who asked for them how they ended.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::sys::{self, Ended};

#[derive(Clone, Default)]
pub struct Reaper {
    awaited: Arc<Mutex<HashMap<u32, oneshot::Sender<Ended>>>>,
}

impl Reaper {
    /// Starts a child by `spawn` and gives its pid and its end to come.
    ///
    /// The lock is held from before the child exists until its pid is known here, so that its end cannot be reaped as that
    /// of an orphan in between.
    pub fn spawn(&self, spawn: impl FnOnce() -> io::Result<u32>) -> io::Result<(u32, oneshot::Receiver<Ended>)> {
        let mut awaited = self.awaited.lock().expect("no holder panics");
        let pid = spawn()?;
        let (sender, receiver) = oneshot::channel();
        awaited.insert(pid, sender);
        Ok((pid, receiver))
    }

    /// Reaps for ever.
    pub async fn run(self) -> io::Result<()> {
        let mut child_ended = signal(SignalKind::child())?;
        loop {
            self.reap();
            child_ended.recv().await;
        }
    }

    fn reap(&self) {
        let mut awaited = self.awaited.lock().expect("no holder panics");
        while let Some((pid, ended)) = sys::reap() {
            if let Some(sender) = awaited.remove(&pid) {
                let _ = sender.send(ended);
            }
        }
    }
}
