//! The events that can happen in a state.

use super::World;
use super::pages::{Page, PageSet};
use super::protocol::Step;
use super::state::{At, PhaseNow, State, Who, Writer};

/// An event that leads from a state to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The first state, in which these pages are private.
    Start(PageSet),
    Writes(Page),
    MeetsProtection(Page),
    LooksAgain(Page),
    IsInterrupted(Page),
    /// The kernel moves a page or swaps it out, and returns it.
    IsTakenAway(Page),
    IsBack(Page),
    Does(Who, Step),
    IsGivenUp,
}

/// A state, or the violation found.
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
            unpopulated: match world.protocol.old_kernel {
                true => world.protocol.all().without(private),
                false => PageSet::default(),
            },
            away: PageSet::default(),
            moves: world.moves,
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
            signalled: false,
            failed: false,
            over: false,
        };
        state.branch.first(world.protocol.branch());
        state.handler.first([Step::Poll]);
        state
    }

    /// Every event that can happen now, with its outcome.
    pub fn successors(&self, world: &World) -> Vec<(Event, Outcome)> {
        let mut out = Vec::new();
        for writer in 0..self.writers.len() {
            self.writer_steps(world, writer, &mut out);
        }
        self.kernel_steps(&mut out);
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
            // Writers are interchangeable: sort them.
            outcome.iter_mut().for_each(|next| next.writers.sort_unstable());
        }
        out
    }

    /// The kernel takes away any private page at any moment, and returns it at any later one. Once the set is final
    /// this makes no difference any more, since a thread that reads or writes the page waits for it.
    fn kernel_steps(&self, out: &mut Vec<(Event, Outcome)>) {
        let mut push = |event, change: &dyn Fn(&mut State)| {
            let mut next = self.clone();
            change(&mut next);
            out.push((event, Ok(next)));
        };
        let is_listed = !matches!(self.phase, PhaseNow::Tracking { .. });
        if self.moves > 0 && !is_listed {
            for page in self.changed.without(self.away).iter() {
                push(Event::IsTakenAway(page), &|next| next.take_away(page));
            }
        }
        for page in self.away.iter() {
            push(Event::IsBack(page), &|next| next.away.remove(page));
        }
    }

    /// Steps of a writer. A stopped processor does nothing, at any point.
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
            Step::Poll => self.unread_faults().is_empty() && !self.signalled,
            _ => false,
        }
    }

    /// The steps that a step can turn out to be.
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
}
