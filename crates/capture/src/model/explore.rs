//! Visits every reachable state, nearest first, so that each violation comes with a shortest path to it.

use super::World;
use super::machine::Event;
use super::pages::PageSet;
use super::state::State;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

/// A state that violates a condition, and the path to it.
#[derive(Debug)]
pub struct Violation {
    pub what: String,
    pub trace: Vec<Event>,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, event) in self.trace.iter().enumerate() {
            writeln!(formatter, "{number:>4}  {event:?}")?;
        }
        write!(formatter, "      {}", self.what)
    }
}

/// The size of the search.
#[derive(Debug)]
pub struct Explored {
    pub states: usize,
    pub events: usize,
}

/// A hash that is quick even without optimisation. The standard one takes three quarters of the time of a search.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u8(*byte));
    }

    fn write_u8(&mut self, value: u8) {
        self.write_usize(value.into());
    }

    fn write_isize(&mut self, value: isize) {
        self.write_usize(value as usize);
    }

    fn write_usize(&mut self, value: usize) {
        self.0 = (self.0.rotate_left(5) ^ value as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

#[derive(Default)]
struct Visited {
    numbers: HashMap<Rc<State>, usize, BuildHasherDefault<Quick>>,
    states: Vec<Rc<State>>,
    /// The previous state and the event by which each state was first reached.
    from: Vec<(usize, Event)>,
}

impl Visited {
    /// The number of a state, known or new.
    fn number(&mut self, state: State, from: usize, event: Event) -> usize {
        if let Some(number) = self.numbers.get(&state) {
            return *number;
        }
        let state = Rc::new(state);
        let number = self.states.len();
        self.numbers.insert(state.clone(), number);
        self.states.push(state);
        self.from.push((from, event));
        number
    }

    fn violation(&self, what: String, at: usize, last: Option<Event>) -> Violation {
        let mut trace: Vec<Event> = last.into_iter().collect();
        let mut number = at;
        loop {
            let (before, event) = self.from[number];
            trace.push(event);
            if before == number {
                trace.reverse();
                return Violation { what, trace };
            }
            number = before;
        }
    }
}

pub fn explore(world: &World) -> Result<Explored, Violation> {
    let mut visited = Visited::default();
    for bits in 0..1 << world.protocol.pages {
        let private = PageSet::from_bits(bits);
        let number = visited.states.len();
        visited.number(State::start(world, private), number, Event::Start(private));
    }
    let mut edges: Vec<(usize, usize)> = Vec::new();
    let mut at = 0;
    while at < visited.states.len() {
        let state = visited.states[at].clone();
        let successors = state.successors(world);
        if successors.is_empty() {
            state.check_rest().map_err(|what| visited.violation(what, at, None))?;
        }
        for (event, outcome) in successors {
            let next = outcome.map_err(|what| visited.violation(what, at, Some(event)))?;
            edges.push((at, visited.number(next, at, event)));
        }
        at += 1;
    }
    // A graph without cycles, with no writer left waiting in any final state: every actor reaches its end, however
    // unfair the scheduling.
    if let Some(number) = on_a_circle(visited.states.len(), &edges) {
        return Err(visited.violation("this state can come again and again".into(), number, None));
    }
    Ok(Explored {
        states: visited.states.len(),
        events: edges.len(),
    })
}

/// Finds a state on a cycle, or one that leads to a cycle: it is left over when states without predecessors are removed
/// repeatedly. `edges` are ordered by their first state.
fn on_a_circle(states: usize, edges: &[(usize, usize)]) -> Option<usize> {
    let mut leading_here = vec![0usize; states];
    edges.iter().for_each(|(_, to)| leading_here[*to] += 1);
    let mut free: Vec<usize> = (0..states).filter(|state| leading_here[*state] == 0).collect();
    while let Some(state) = free.pop() {
        let first = edges.partition_point(|(from, _)| *from < state);
        for (_, to) in edges[first..].iter().take_while(|(from, _)| *from == state) {
            leading_here[*to] -= 1;
            if leading_here[*to] == 0 {
                free.push(*to);
            }
        }
    }
    leading_here.iter().position(|count| *count > 0)
}

#[test]
fn a_circle_is_found() {
    assert_eq!(on_a_circle(4, &[(0, 1), (0, 2), (1, 3), (2, 3)]), None);
    assert_eq!(on_a_circle(4, &[(0, 1), (1, 2), (2, 1), (2, 3)]), Some(1));
}
