//! Writes to a fork's memory, watched while its pages are served.

use super::fork::Fork;
use crate::error::{PageError, Result, Step};
use forkd_capture::FaultQueue;
use forkd_linux_sys::uffd::Modes;
use std::sync::Arc;

/// What those who fill pages and read events must know of it; changed only while nobody does either.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Who is told of writes, and of memory that is given back.
    pub queue: Option<Arc<FaultQueue>>,
    /// Pages are filled such that a write to them faults.
    pub protects: bool,
    /// It has been watched before: a fault that comes late is nobody's.
    pub was_watched: bool,
    /// The VMM has been left to itself.
    pub is_over: bool,
}

impl Fork {
    /// From its return on `queue` is told of all that is written to protected memory, and given back; what had been given
    /// back before is told at once. Every page that is filled is protected.
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

    /// Who has given memory back goes on as soon as that has been read, and it is told a moment later: after this it is.
    pub fn wait_for_events(&self) {
        drop(self.changes.read().expect("no panic while held"));
    }

    /// Pages are filled as ever from now on. All that was given back until now has been told.
    pub fn stop_protecting(&self) {
        self.changes.write().expect("no panic while held").protects = false;
    }

    /// Nobody is told any more.
    pub fn stop_watching(&self) {
        let mut watch = self.changes.write().expect("no panic while held");
        watch.protects = false;
        watch.queue = None;
    }
}
