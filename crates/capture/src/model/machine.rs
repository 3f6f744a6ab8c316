//! What each step does, when it can be done, and what else may happen instead.

use super::World;
use super::pages::{Page, PageSet};
use super::protocol::{Step, lift};
use super::state::{At, PhaseNow, State, Who, Writer};
use crate::handler::Service;
use crate::set::Claim;

/// What leads from a state to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The first state, in which these pages are private.
    Start(PageSet),
    Writes(Page),
    MeetsProtection(Page),
    LooksAgain(Page),
    IsInterrupted(Page),
    Does(Who, Step),
    IsGivenUp,
}

/// A state, or what is wrong with it.
pub type Outcome = Result<State, String>;

impl State {
    pub fn start(world: &World, private: PageSet) -> State {
        let writer = |writes: &u8| Writer {
            at: At::Rest,
            writes: *writes,
        };
        let mut state = State {
            protected: PageSet::default(),
            changed: private,
            writers: world.writes.iter().map(writer).collect(),
            stopped: false,
            signals: world.signals,
            phase: PhaseNow::Tracking {
                touched: PageSet::default(),
            },
            set: Default::default(),
            sink: PageSet::default(),
            branch: Default::default(),
            handler: Default::default(),
            claimed: PageSet::default(),
            faults: Vec::new(),
            phase_lock: None,
            keeping: false,
            bell: false,
            failed: false,
            over: false,
        };
        state.branch.first(world.protocol.branch());
        state.handler.first([Step::Poll]);
        state
    }

    /// Everything that can happen now, and what comes of it.
    pub fn successors(&self, world: &World) -> Vec<(Event, Outcome)> {
        let mut out = Vec::new();
        for writer in 0..self.writers.len() {
            self.writer_steps(world, writer, &mut out);
        }
        for (who, actor) in [(Who::Branch, &self.branch), (Who::Handler, &self.handler)] {
            let Some(step) = actor.next().filter(|step| !self.must_wait(world, *step)) else {
                continue;
            };
            for step in self.alternatives(world, who, step) {
                let mut next = self.clone();
                next.actor(who).pop();
                let outcome = next.perform(world, who, step).map(|()| next);
                out.push((Event::Does(who, step), outcome));
            }
        }
        if world.gives_up && !self.over {
            let mut next = self.clone();
            next.give_up(world);
            out.push((Event::IsGivenUp, Ok(next)));
        }
        for (_, outcome) in &mut out {
            // It makes no difference which writer is which.
            outcome.iter_mut().for_each(|next| next.writers.sort_unstable());
        }
        out
    }

    /// A stopped processor does nothing, wherever it was.
    fn writer_steps(&self, world: &World, writer: usize, out: &mut Vec<(Event, Outcome)>) {
        let mut push = |event, change: &dyn Fn(&mut State)| {
            let mut next = self.clone();
            change(&mut next);
            out.push((event, Ok(next)));
        };
        let store = |page| match self.protected.has(page) {
            true => Event::MeetsProtection(page),
            false => Event::Writes(page),
        };
        match self.writers[writer].at {
            _ if self.stopped => {}
            At::Rest if self.writers[writer].writes == 0 => {}
            At::Rest => {
                for page in 0..world.protocol.pages {
                    push(store(page), &|next| next.store(writer, page));
                }
            }
            At::Again(page) => push(store(page), &|next| next.store(writer, page)),
            At::Fault { page, asleep, .. } => {
                if !asleep {
                    push(Event::LooksAgain(page), &|next| next.look_again(writer));
                } else if self.signals > 0 {
                    push(Event::IsInterrupted(page), &|next| next.interrupt(writer));
                }
            }
        }
    }

    fn must_wait(&self, world: &World, step: Step) -> bool {
        match step {
            Step::Stop => world.stops_between_writes && self.writers.iter().any(|writer| writer.at != At::Rest),
            Step::Take | Step::Round { .. } | Step::Release | Step::LockPhase => self.phase_lock.is_some(),
            Step::AwaitKept | Step::LockKeeping => self.keeping,
            Step::Join => !self.handler.is_done(),
            Step::Poll => self.unread_faults().is_empty() && !self.bell,
            _ => false,
        }
    }

    /// What a step can turn out to be.
    fn alternatives(&self, world: &World, who: Who, step: Step) -> Vec<Step> {
        let fails = world.fails && !self.failed && who == Who::Handler;
        match step {
            Step::Settle { rounds } => {
                let touched = matches!(self.phase, PhaseNow::Tracking { touched } if !touched.is_empty());
                let again = touched && rounds > 0 && self.phase_lock.is_none();
                let round = again.then_some(Step::Round { rounds });
                [Step::Settled].into_iter().chain(round).collect()
            }
            Step::CopyFrom { rank } => match self.set.ranked().len() as u8 - rank {
                0 => vec![Step::Copied],
                left => (1..=left.min(world.chunk))
                    .map(|pages| Step::Chunk { rank, pages })
                    .collect(),
            },
            Step::ReadFaults => match self.unread_faults() {
                none if none.is_empty() => vec![Step::ServeAll],
                some => some.iter().map(Step::Fault).collect(),
            },
            Step::Serve(_) | Step::Read(_) if fails => vec![step, Step::Fail],
            // The failure of a sink is noted with the phase locked.
            Step::Put(_) if fails && self.phase_lock.is_none() => vec![step, Step::Fail],
            _ => vec![step],
        }
    }

    fn perform(&mut self, world: &World, who: Who, step: Step) -> Result<(), String> {
        let protocol = world.protocol;
        match step {
            Step::Protect(page) => self.protected.add(page),
            Step::Unprotect(page) => self.protected.remove(page),
            Step::Wake(pages) => self.wake(pages),
            Step::Scan(page) if self.changed.has(page) => self.set.scan(page),
            Step::Scan(_) => {}
            Step::Settled => self.branch.first([Step::Check, Step::Stop, Step::Take]),
            Step::Round { rounds } => {
                let touched = self.take_touched();
                self.branch.first(protocol.round(touched, rounds));
            }
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
            Step::Chunk { rank, pages } => {
                let ranked = self.set.ranked();
                let chunk = ranked.iter().skip(rank.into()).take(pages.into());
                self.branch.first(chunk.copied().map(Step::Claim).chain([
                    Step::CopyClaimed,
                    Step::Check,
                    Step::CopyFrom { rank: rank + pages },
                ]));
            }
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
                let changed = self.changed.has(page);
                self.actor(who).buffer.push((page, changed));
            }
            Step::NoteRead(page) => return self.set.note_read(page),
            Step::Put(page) => return self.put(who, page),
            Step::Complete(page) => return self.set.complete(page),
            Step::Check if self.failed => self.give_up(world),
            Step::Check | Step::AwaitKept => {}
            Step::AssertCopied => return self.check_copied(),
            Step::Release => self.phase = PhaseNow::Released,
            Step::Ring => self.bell = true,
            Step::Join => {}
            Step::Poll => self.poll(),
            Step::LockKeeping => self.keeping = true,
            Step::LockPhase => self.phase_lock = Some(Who::Handler),
            Step::Fault(page) => {
                self.read_fault(page);
                self.handler.first([Step::ReadFaults]);
            }
            Step::ServeAll => {
                self.handler.first([Step::UnlockPhase]);
                self.handler.first(self.faults.iter().copied().map(Step::Serve));
            }
            Step::Serve(page) => self.serve(world, page),
            Step::UnlockPhase => self.unlock_phase(),
            Step::UnlockKeeping => self.keeping = false,
            Step::Fail => self.fail_handler(),
            Step::Settle { .. } | Step::CopyFrom { .. } | Step::ReadFaults => unreachable!("one of its alternatives"),
        }
        Ok(())
    }

    fn take_touched(&mut self) -> PageSet {
        match &mut self.phase {
            PhaseNow::Tracking { touched } => std::mem::take(touched),
            phase => unreachable!("pages are touched before the instant, not in {phase:?}"),
        }
    }

    /// From here on `changed` means: since the instant.
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
        // What the sink has after a failure is worthless, and the branch says so.
        if changed && !self.failed {
            return Err(format!("page {page} is put as it was after the instant"));
        }
        Ok(())
    }

    /// What a successful `copy` promises.
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
        if !self.bell {
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

    /// What was read goes to the sink once the phase is unlocked.
    fn unlock_phase(&mut self) {
        self.phase_lock = None;
        self.faults.clear();
        let read = self.handler.buffer.clone();
        let keep = read
            .into_iter()
            .flat_map(|(page, _)| [Step::Put(page), Step::Complete(page)]);
        self.handler.first(keep);
    }

    /// A failure lets go whoever is among the faults that are being served, if any are.
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

    /// The branch is dropped where it stands. Whoever stopped the writers lets them run in any case.
    fn give_up(&mut self, world: &World) {
        self.over = true;
        self.stopped = false;
        self.phase_lock = self.phase_lock.filter(|who| *who != Who::Branch);
        self.claimed = PageSet::default();
        self.branch.clear();
        self.branch.first(world.protocol.release());
    }
}
