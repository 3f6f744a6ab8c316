//! Watches writes to a fork's memory while its pages are served.

use super::fork::Fork;
use super::watch::Watch;
use crate::error::{PageError, Result, Step};
use forkd_capture::FaultQueue;
use forkd_linux_sys::uffd::Modes;
use std::sync::Arc;

impl Fork {
    /// Tells `queue` of every write to protected memory and of freed memory, from the return of this call on. Memory freed
    /// before is told at once. Every page that is filled from now on is protected.
    pub fn watch(&self, queue: Arc<FaultQueue>) -> Result<()> {
        let refused = |what: &str| Err(PageError::Unwatchable { what: what.into() });
        let regions = self.layout.regions();
        if self.is_any_shared() {
            return refused("it maps its template");
        }
        if regions.iter().any(|region| region.is_huge()) {
            return refused("its pages are huge");
        }
        let mut watch = self.changes.write().expect("no panic while held");
        if watch.is_over {
            return refused("it has been left to itself");
        }
        if watch.queue.is_some() {
            return refused("it is watched already");
        }
        let modes = Modes {
            missing: true,
            minor: false,
            write_protect: true,
        };
        let register = |range| self.uffd.register(range, modes);
        let registered = regions.iter().try_for_each(|region| register(region.memory));
        registered.step("registering memory for write faults")?;
        for region in regions {
            let mut page = region.pages().start;
            while page < region.pages().end {
                let (removed, pages) = self.removed.run(page, region.pages().end - page);
                if removed {
                    queue.push_removed(page..page + pages);
                }
                page += pages;
            }
        }
        *watch = Watch {
            queue: Some(queue),
            protects: true,
            was_watched: true,
            is_over: false,
        };
        Ok(())
    }

    /// Waits until the queue has been told of every event that was read. A thread that frees memory continues as soon as its
    /// event is read, and the queue hears of it a moment later.
    pub fn wait_for_events(&self) {
        drop(self.changes.read().expect("no panic while held"));
    }

    /// Fills pages without protection from now on. The queue has been told of all memory freed until now.
    pub fn stop_protecting(&self) {
        self.changes.write().expect("no panic while held").protects = false;
    }

    /// Ends the watch: the queue is told of nothing more.
    pub fn stop_watching(&self) {
        let mut watch = self.changes.write().expect("no panic while held");
        watch.protects = false;
        watch.queue = None;
    }
}
