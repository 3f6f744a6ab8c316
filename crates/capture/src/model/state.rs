//! Everything that a step can depend on or change: memory, writers and kernel, and what the crate keeps.

use super::pages::{Page, PageSet, SetLog};
use super::protocol::Step;
use crate::phase::{Phase, Service};
use std::sync::Arc;

/// A processor of the guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Writer {
    pub at: At,
    /// Writes that it has still to make, the one it is at included.
    pub writes: u8,
}

/// How far a write has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    /// Between two writes.
    Rest,
    /// It met the protection and is in the kernel's queue, `told` once the fault has been read from there. `asleep` only
    /// after the kernel has looked again whether the page is protected.
    Fault { page: Page, told: bool, asleep: bool },
    /// It was woken, and writes again.
    Again(Page),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    Branch,
    Handler,
}

/// One who takes steps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Actor {
    /// What is left to do, the next step last.
    steps: Vec<Step>,
    /// Pages that have been read, and whether they had changed since the instant.
    pub buffer: Vec<(Page, bool)>,
}

impl Actor {
    pub fn next(&self) -> Option<Step> {
        self.steps.last().copied()
    }

    pub fn pop(&mut self) {
        self.steps.pop();
    }

    pub fn is_done(&self) -> bool {
        self.steps.is_empty()
    }

    /// Does `steps` before whatever else is left.
    pub fn first(&mut self, steps: impl IntoIterator<Item = Step>) {
        let at = self.steps.len();
        self.steps.extend(steps);
        self.steps[at..].reverse();
    }

    /// Forgets everything before `step`, and what has been read.
    pub fn skip_to(&mut self, step: Step) {
        let at = self.steps.iter().rposition(|left| *left == step);
        self.steps.truncate(at.expect("a step that is left") + 1);
        self.buffer.clear();
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.steps.clear();
        self.buffer.clear();
    }
}

/// [`Phase`] in a form that can be kept and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PhaseNow {
    Tracking { touched: PageSet },
    Capturing,
    Released,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// Of the memory: the pages that are protected, and those with other bytes than the lower layer's until the instant,
    /// or than they had at the instant after it.
    pub protected: PageSet,
    pub changed: PageSet,
    /// Those that the kernel cannot protect yet.
    pub unpopulated: PageSet,
    pub writers: Vec<Writer>,
    pub stopped: bool,
    /// Signals that may still interrupt a writer's sleep.
    pub signals: u8,
    pub phase: PhaseNow,
    pub set: SetLog,
    pub sink: PageSet,
    pub branch: Actor,
    pub handler: Actor,
    /// What the bulk copy has claimed of its chunk.
    pub claimed: PageSet,
    /// What the handler has read from the kernel's queue at one time.
    pub faults: Vec<Page>,
    pub phase_lock: Option<Who>,
    pub keeping: bool,
    pub bell: bool,
    /// The handler's failure.
    pub failed: bool,
    /// The branch has been given up, or has come to its end.
    pub over: bool,
}

impl State {
    pub fn actor(&mut self, who: Who) -> &mut Actor {
        match who {
            Who::Branch => &mut self.branch,
            Who::Handler => &mut self.handler,
        }
    }

    /// A writer stores to a page, or meets its protection.
    pub fn store(&mut self, writer: usize, page: Page) {
        let writer = &mut self.writers[writer];
        if self.protected.has(page) {
            let (told, asleep) = (false, false);
            writer.at = At::Fault { page, told, asleep };
        } else {
            self.changed.add(page);
            self.unpopulated.remove(page);
            writer.at = At::Rest;
            writer.writes -= 1;
        }
    }

    /// A writer that is in the queue already looks whether it still has to wait.
    pub fn look_again(&mut self, writer: usize) {
        if let At::Fault { page, asleep, .. } = &mut self.writers[writer].at {
            if self.protected.has(*page) {
                *asleep = true;
            } else {
                self.writers[writer].at = At::Again(*page);
            }
        }
    }

    /// A signal ends a writer's sleep: it leaves the queue, and meets the protection once more.
    pub fn interrupt(&mut self, writer: usize) {
        if let At::Fault { page, .. } = self.writers[writer].at {
            self.writers[writer].at = At::Again(page);
            self.signals -= 1;
        }
    }

    /// Those who wait for one of `pages` leave the queue, whether their fault has been read or not.
    pub fn wake(&mut self, pages: PageSet) {
        for writer in &mut self.writers {
            if let At::Fault { page, .. } = writer.at
                && pages.has(page)
            {
                writer.at = At::Again(page);
            }
        }
    }

    /// The pages of the faults that nobody has read.
    pub fn unread_faults(&self) -> PageSet {
        let unread = self.writers.iter().filter_map(|writer| match writer.at {
            At::Fault { page, told: false, .. } => Some(page),
            _ => None,
        });
        unread.collect()
    }

    /// Reads one fault at `page` from the queue.
    pub fn read_fault(&mut self, page: Page) {
        let unread = self.writers.iter_mut().find_map(|writer| match &mut writer.at {
            At::Fault { page: at, told, .. } if *at == page && !*told => Some(told),
            _ => None,
        });
        *unread.expect("a fault that waits") = true;
        self.faults.push(page);
    }

    /// The crate's own decision about a fault.
    pub fn decide(&mut self, page: Page) -> Service {
        let mut phase = match self.phase {
            PhaseNow::Tracking { touched } => Phase::Tracking {
                touched: touched.list(),
            },
            PhaseNow::Capturing => Phase::Capturing {
                set: Arc::new(self.set.replay()),
            },
            PhaseNow::Released => Phase::Released,
        };
        let service = phase.fault(page.into());
        if let Phase::Tracking { touched } = phase {
            // In whatever order and how often: the set is told of each once, ascending.
            let touched = touched.into_iter().map(|page| page as Page).collect();
            self.phase = PhaseNow::Tracking { touched };
        }
        if let Service::ReadAndRelease { .. } = service {
            self.set.note_claim(page);
        }
        service
    }

    /// The handler has failed: from now on it only lets writers go.
    pub fn fail(&mut self) {
        self.failed = true;
        self.phase = PhaseNow::Released;
    }

    /// What must hold when nobody can do anything any more.
    pub fn check_rest(&self) -> Result<(), String> {
        if let Some(writer) = self.writers.iter().find(|writer| writer.writes > 0) {
            return Err(format!("a writer waits for ever: {:?}", writer.at));
        }
        if !self.branch.is_done() || !self.handler.is_done() {
            let (branch, handler) = (self.branch.next(), self.handler.next());
            return Err(format!("the branch is left at {branch:?}, the handler at {handler:?}"));
        }
        if !self.protected.is_empty() {
            return Err(format!("{:?} stay protected", self.protected));
        }
        Ok(())
    }
}
