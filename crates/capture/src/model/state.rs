//! Everything that a step can read or change: memory, writers, kernel, and the state of the crate.

use super::pages::{Page, PageSet, SetLog};
use super::protocol::Step;
use crate::phase::{Phase, Service};
use std::sync::Arc;

/// A processor of the guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Writer {
    pub at: At,
    /// Writes left to make, including the current one.
    pub writes: u8,
}

/// Progress of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    /// The writer is between two writes.
    Rest,
    /// The write met the protection and is in the kernel's queue. `told` is true once the fault has been read from
    /// there, `asleep` only after the kernel has looked again whether the page is protected.
    Fault { page: Page, told: bool, asleep: bool },
    /// The writer was woken, and writes again.
    Again(Page),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    Branch,
    Handler,
}

/// An actor that takes steps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Actor {
    /// Steps left to do, the next step last.
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

    /// Does `steps` before the steps that are left.
    pub fn first(&mut self, steps: impl IntoIterator<Item = Step>) {
        let at = self.steps.len();
        self.steps.extend(steps);
        self.steps[at..].reverse();
    }

    /// Drops all steps before `step`, and the pages that have been read.
    pub fn skip_to(&mut self, step: Step) {
        let at = self.steps.iter().rposition(|left| *left == step);
        self.steps.truncate(at.expect("a step that is left") + 1);
        self.buffer.clear();
    }

    /// Drops all steps and pages.
    pub fn clear(&mut self) {
        self.steps.clear();
        self.buffer.clear();
    }
}

/// [`Phase`] in a form that can be stored and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PhaseNow {
    Tracking { touched: PageSet },
    Capturing,
    Released,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// Pages that are protected, and pages with other bytes than the lower layer's (until the instant) or than at the
    /// instant (after it).
    pub protected: PageSet,
    pub changed: PageSet,
    /// Pages that the kernel cannot protect yet.
    pub unpopulated: PageSet,
    /// Private pages that the kernel is moving or has swapped out. They keep their protection, and it can still be
    /// changed.
    pub away: PageSet,
    /// Number of pages that the kernel may still take away.
    pub moves: u8,
    pub writers: Vec<Writer>,
    pub stopped: bool,
    /// Signals that may still interrupt a writer's sleep.
    pub signals: u8,
    pub phase: PhaseNow,
    pub set: SetLog,
    pub sink: PageSet,
    pub branch: Actor,
    pub handler: Actor,
    /// Pages of its chunk that the bulk copy has claimed.
    pub claimed: PageSet,
    /// Faults that the handler has read from the kernel's queue at one time.
    pub faults: Vec<Page>,
    pub phase_lock: Option<Who>,
    pub keeping: bool,
    pub signalled: bool,
    /// True once the handler has failed.
    pub failed: bool,
    /// True once the branch has been aborted, or has come to its end.
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
        self.away.remove(page);
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

    /// The kernel moves a page or swaps it out.
    pub fn take_away(&mut self, page: Page) {
        self.away.add(page);
        self.moves -= 1;
    }

    /// A writer that is in the queue checks again whether it has to wait.
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

    /// The writers that wait for one of `pages` leave the queue, whether their fault has been read or not.
    pub fn wake(&mut self, pages: PageSet) {
        for writer in &mut self.writers {
            if let At::Fault { page, .. } = writer.at
                && pages.has(page)
            {
                writer.at = At::Again(page);
            }
        }
    }

    /// The pages of the faults that have not been read.
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
            // Order and repetition do not matter: the set receives each page once, ascending.
            let touched = touched.into_iter().map(|page| page as Page).collect();
            self.phase = PhaseNow::Tracking { touched };
        }
        if let Service::ReadAndRelease { .. } = service {
            self.set.note_claim(page);
        }
        service
    }

    /// The handler has failed: it now only releases writers.
    pub fn fail(&mut self) {
        self.failed = true;
        self.phase = PhaseNow::Released;
    }

    /// Checks the conditions that must hold when nothing can happen any more.
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
