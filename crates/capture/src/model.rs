//! A model of a capture in which whatever can happen at the same time is tried in every order.
//!
//! What decides in it is the crate's own code: `Phase::fault` about a fault, `CaptureSet` about the pages. The model adds what
//! surrounds that code: the kernel (a page is protected or not, a write to a protected one goes into a queue and looks once
//! more before it sleeps, a call changes page by page and wakes at its end), the writers, and the order of the steps that the
//! branch, the handler and the bulk copy take, which `protocol.rs` writes down beside the names of the functions that it is
//! taken from. Whoever changes that order in `branch.rs` or `handler.rs` changes it there too. Pages that are asked for out of turn
//! (`early.rs`) are taken as the handler takes one, under the same two locks, and are no actor of their own here.
//!
//! Of a page's bytes only this matters, and is kept: whether they are the lower layer's until the instant, and whether they
//! are the instant's after it. Every write is taken to change them. Between two steps each of the others may take any number
//! of steps, and memory is sequentially consistent: weaker orders are for the tests on real memory to find.
//!
//! Every state that can be reached is visited, and held against this:
//! - a page that is not in the set has the lower layer's bytes at the instant: nobody has written it, ever;
//! - the sink is given each page of the set once, with the bytes of the instant, and has them all when the copy has
//!   succeeded. Until a failure that the branch reports, that is so for a branch that is given up, too;
//! - no assertion of the crate fires;
//! - wherever nothing can happen any more, every write has been made, the branch and the handler have ended, and nothing
//!   is protected. No state can come twice, so that every course of events gets there.

mod explore;
mod machine;
mod pages;
mod protocol;
mod state;
mod steps;

use explore::explore;
use protocol::{Mistake, Protocol};

/// What may happen in a model, and how often.
#[derive(Debug, Clone, Copy)]
struct World {
    protocol: Protocol,
    /// How many writes each writer makes, each to any page.
    writes: &'static [u8],
    /// The bulk copy takes up to so many pages at a time.
    chunk: u8,
    /// How often a signal interrupts a writer that waits.
    signals: u8,
    /// Whether the writers can be stopped only between two writes, so that a branch has to wait for one that waits itself;
    /// else they are stopped wherever they are.
    stops_between_writes: bool,
    /// Whether the branch may be given up, before any of its steps.
    gives_up: bool,
    /// Whether the handler may fail, once, at a page that it serves or that it gives to the sink.
    fails: bool,
}

/// Pages are private or not at the beginning, in every combination.
fn world(pages: u8, writes: &'static [u8]) -> World {
    World {
        protocol: Protocol {
            pages,
            rounds: 1,
            old_kernel: false,
            mistake: None,
        },
        writes,
        chunk: 2,
        signals: 0,
        stops_between_writes: false,
        gives_up: false,
        fails: false,
    }
}

fn holds(world: World) {
    match explore(&world) {
        Ok(explored) => println!("{} states, {} events: {world:?}", explored.states, explored.events),
        Err(violation) => panic!("{world:?}\n{violation}"),
    }
}

// Together these cover: two writes that wait at the same time, for one page or for two; a page that is written before the
// scan, between the rounds, after them and after the instant, by one writer or by two; three pages, of which two can be in
// one chunk, one run or one round and the third in none of them. What needs three writers at a time, or a fourth page, is
// beyond them. The bounds are as wide as half a minute on one core allows, in a debug build.

#[test]
fn one_writer_with_several_rounds_and_signals() {
    let one = world(2, &[3]);
    let protocol = Protocol {
        rounds: 2,
        ..one.protocol
    };
    holds(World {
        protocol,
        signals: 1,
        ..one
    });
}

#[test]
fn two_writers() {
    holds(world(2, &[2, 1]));
}

#[test]
fn two_writers_of_one_page_that_write_before_and_after_the_instant() {
    holds(world(1, &[2, 2]));
}

#[test]
fn three_pages() {
    holds(world(3, &[2]));
}

#[test]
fn a_kernel_that_protects_only_what_is_populated() {
    let right = world(2, &[1, 1]);
    let protocol = Protocol {
        old_kernel: true,
        ..right.protocol
    };
    holds(World { protocol, ..right });
}

#[test]
fn a_branch_that_is_given_up_anywhere() {
    holds(World {
        gives_up: true,
        ..world(2, &[1, 1])
    });
}

#[test]
fn a_handler_that_fails_anywhere() {
    holds(World {
        stops_between_writes: true,
        fails: true,
        ..world(2, &[1, 1])
    });
}

#[test]
fn a_branch_that_is_given_up_while_the_handler_fails() {
    holds(World {
        gives_up: true,
        fails: true,
        ..world(2, &[2])
    });
}

/// A model with this mistake goes wrong in this way.
fn goes_wrong(mistake: Mistake, wanted: &str) {
    let right = World {
        gives_up: true,
        ..world(2, &[2])
    };
    let protocol = Protocol {
        old_kernel: mistake == Mistake::LeavesUnpopulatedPages,
        mistake: Some(mistake),
        ..right.protocol
    };
    let violation = explore(&World { protocol, ..right }).expect_err("the mistake is not noticed");
    println!("{mistake:?}\n{violation}");
    assert!(
        violation.what.contains(wanted),
        "noticed as something else: {}",
        violation.what
    );
}

#[test]
fn a_page_that_is_noted_as_read_before_it_is_read_is_noticed() {
    goes_wrong(Mistake::NotesBeforeReading, "as it was after the instant");
}

#[test]
fn a_page_that_is_released_before_it_is_read_is_noticed() {
    goes_wrong(Mistake::ReleasesBeforeReading, "as it was after the instant");
}

#[test]
fn touched_pages_that_a_round_forgets_are_noticed() {
    goes_wrong(Mistake::ForgetsTouchedPages, "are not in the set");
}

#[test]
fn a_handler_that_releases_what_the_copy_reads_is_noticed() {
    goes_wrong(Mistake::ReleasesWhatOthersRead, "as it was after the instant");
}

#[test]
fn a_handler_that_reads_what_the_copy_reads_is_noticed() {
    goes_wrong(Mistake::ReadsWhatOthersRead, "an assertion of the crate fires");
}

#[test]
fn a_phase_that_changes_after_the_release_is_noticed() {
    goes_wrong(Mistake::ChangesPhaseLast, "as it was after the instant");
}

#[test]
fn touched_pages_that_are_not_protected_at_the_instant_are_noticed() {
    goes_wrong(Mistake::DoesNotProtectAgain, "as it was after the instant");
}

#[test]
fn a_scan_of_pages_that_are_not_protected_is_noticed() {
    goes_wrong(Mistake::ScansBeforeProtecting, "are not in the set");
}

#[test]
fn unpopulated_pages_that_an_old_kernel_leaves_unprotected_are_noticed() {
    goes_wrong(Mistake::LeavesUnpopulatedPages, "are not in the set");
}

#[test]
fn protection_that_is_left_is_noticed() {
    goes_wrong(Mistake::LeavesTheProtection, "stay protected");
}

#[test]
fn a_writer_that_is_not_woken_is_noticed() {
    goes_wrong(Mistake::LiftsWithoutWaking, "a writer waits for ever");
}

#[test]
fn a_copy_that_ends_before_the_handler_has_kept_its_pages_is_noticed() {
    goes_wrong(Mistake::DoesNotAwaitTheHandler, "a page that is not complete");
}
