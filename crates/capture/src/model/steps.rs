//! The effect of each step.

use super::World;
use super::pages::{Page, PageSet};
use super::protocol::{Step, lift};
use super::state::{PhaseNow, State, Who};
use crate::phase::Service;
use crate::set::Claim;

impl State {
    pub fn perform(&mut self, world: &World, who: Who, step: Step) -> Result<(), String> {
        let protocol = world.protocol;
        match step {
            Step::Protect(page) if self.unpopulated.has(page) => {}
            Step::Protect(page) => self.protected.add(page),
            Step::Unprotect(page) => self.protected.remove(page),
            Step::Wake(pages) => self.wake(pages),
            Step::ListUnprotected => self.list_unprotected(world),
            Step::Populate(page) => self.unpopulated.remove(page),
            Step::Scan(page) if self.changed.has(page) => self.set.scan(page),
            Step::LookForPresent(page) if self.changed.without(self.away).has(page) => self.set.scan(page),
            Step::LookForAway(page) if self.away.has(page) => self.set.scan(page),
            Step::Scan(_) | Step::LookForPresent(_) | Step::LookForAway(_) => {}
            Step::Settled => self.branch.first([Step::Check, Step::Stop, Step::Take]),
            Step::Round { rounds } => self.round(world, rounds),
            Step::Touch(pages) => self.set.touch(pages),
            Step::Stop => self.stopped = true,
            Step::Take if self.failed => self.give_up(world),
            Step::Take => {
                self.phase_lock = Some(Who::Branch);
                let touched = self.take_touched();
                self.branch.first(protocol.take(touched));
            }
            Step::Capture { touched } => return self.capture(touched),
            Step::Resume => self.stopped = false,
            Step::Chunk { rank, pages } => self.chunk(rank, pages),
            Step::Copied => {
                self.over = true;
                self.branch.first(protocol.copied());
            }
            Step::Claim(page) => {
                if self.set.claim(page) == Claim::Yours {
                    self.claimed.add(page);
                }
            }
            Step::CopyClaimed => {
                let runs = self.set.runs(std::mem::take(&mut self.claimed));
                self.branch.first(protocol.copy(&runs));
            }
            Step::Read(page) => {
                self.away.remove(page);
                let changed = self.changed.has(page);
                self.actor(who).buffer.push((page, changed));
            }
            Step::NoteRead(page) => return self.set.note_read(page),
            Step::Put(page) => return self.put(who, page),
            Step::Complete(page) => return self.set.complete(page),
            Step::Check if self.failed => self.give_up(world),
            Step::Check | Step::AwaitKept | Step::Join => {}
            Step::AssertCopied => return self.check_copied(),
            Step::Release => self.phase = PhaseNow::Released,
            Step::Signal => self.signalled = true,
            Step::Poll => self.poll(),
            Step::LockKeeping => self.keeping = true,
            Step::LockPhase => self.phase_lock = Some(Who::Handler),
            Step::Fault(page) => {
                self.read_fault(page);
                self.handler.first([Step::ReadFaults]);
            }
            Step::ServeAll => {
                let serve = self.faults.iter().copied().map(Step::Serve);
                self.handler.first(serve.chain([Step::UnlockPhase]));
            }
            Step::Serve(page) => self.serve(world, page),
            Step::UnlockPhase => self.unlock_phase(),
            Step::UnlockKeeping => self.keeping = false,
            Step::Fail => self.fail_handler(),
            Step::Settle { .. } | Step::CopyFrom { .. } | Step::ReadFaults => unreachable!("one of its alternatives"),
        }
        Ok(())
    }

    fn list_unprotected(&mut self, world: &World) {
        let listed = world.protocol.all().without(self.protected);
        self.branch.first(world.protocol.protect_listed(listed));
    }

    fn take_touched(&mut self) -> PageSet {
        match &mut self.phase {
            PhaseNow::Tracking { touched } => std::mem::take(touched),
            phase => unreachable!("pages are touched before the instant, not in {phase:?}"),
        }
    }

    fn round(&mut self, world: &World, rounds: u8) {
        let touched = self.take_touched();
        self.branch.first(world.protocol.round(touched, rounds));
    }

    fn chunk(&mut self, rank: u8, pages: u8) {
        let ranked = self.set.ranked();
        let claims = ranked
            .iter()
            .skip(rank.into())
            .take(pages.into())
            .copied()
            .map(Step::Claim);
        let rank = rank + pages;
        self.branch
            .first(claims.chain([Step::CopyClaimed, Step::Check, Step::CopyFrom { rank }]));
    }

    /// Takes the instant. `changed` now means: changed since the instant.
    fn capture(&mut self, touched: PageSet) -> Result<(), String> {
        self.set.touch(touched);
        let missing = self.changed.without(self.set.pages());
        self.changed = PageSet::default();
        self.phase = PhaseNow::Capturing;
        self.phase_lock = None;
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "{missing:?} had been written at the instant, and are not in the set"
            ))
        }
    }

    fn put(&mut self, who: Who, page: Page) -> Result<(), String> {
        let buffer = &mut self.actor(who).buffer;
        let at = buffer.iter().position(|(read, _)| *read == page);
        let (_, changed) = buffer.remove(at.expect("a page that was read"));
        if self.sink.has(page) {
            return Err(format!("page {page} is put twice"));
        }
        self.sink.add(page);
        // The content of the sink is worthless after a failure, and the branch reports the failure.
        if changed && !self.failed {
            return Err(format!("page {page} is put as it was after the instant"));
        }
        Ok(())
    }

    /// Checks the guarantee of a successful `copy`.
    fn check_copied(&self) -> Result<(), String> {
        if !self.set.replay().is_complete() {
            return Err("the copy ends with a page that is not complete".into());
        }
        if self.sink != self.set.pages() {
            return Err(format!("the sink has {:?} of {:?}", self.sink, self.set.pages()));
        }
        Ok(())
    }

    fn poll(&mut self) {
        if !self.signalled {
            self.handler.first([Step::Poll]);
        }
        if !self.unread_faults().is_empty() {
            self.handler.first([
                Step::LockKeeping,
                Step::LockPhase,
                Step::ReadFaults,
                Step::UnlockKeeping,
            ]);
        }
    }

    fn serve(&mut self, world: &World, page: Page) {
        let only: PageSet = [page].into_iter().collect();
        let steps = match self.decide(page) {
            Service::Release => lift(only).collect(),
            Service::ReadAndRelease { .. } => world.protocol.read_and_release(&[only]),
            Service::Leave { .. } => world.protocol.leave(page),
        };
        self.handler.first(steps);
    }

    /// Unlocks the phase. The pages that were read then go to the sink.
    fn unlock_phase(&mut self) {
        self.phase_lock = None;
        self.faults.clear();
        let read = self.handler.buffer.clone();
        let keep = read
            .into_iter()
            .flat_map(|(page, _)| [Step::Put(page), Step::Complete(page)]);
        self.handler.first(keep);
    }

    /// Fails the handler. That releases the writers whose faults are being served, if any.
    fn fail_handler(&mut self) {
        self.fail();
        self.handler.skip_to(Step::UnlockKeeping);
        if self.phase_lock == Some(Who::Handler) {
            self.handler.first([Step::UnlockPhase]);
            let faults = self.faults.iter();
            let lifts = faults.flat_map(|page| lift([*page].into_iter().collect()));
            self.handler.first(lifts);
        }
    }

    /// Drops the branch where it is. The caller resumes the writers in any case.
    pub fn give_up(&mut self, world: &World) {
        self.over = true;
        self.stopped = false;
        self.phase_lock = self.phase_lock.filter(|who| *who != Who::Branch);
        self.claimed = PageSet::default();
        self.branch.clear();
        self.branch.first(world.protocol.release());
    }
}
