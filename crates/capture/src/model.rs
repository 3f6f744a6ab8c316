//! A model of a capture that tries every order of the events that can happen at the same time.
//!
//! The decisions in the model are made by the crate's own code: `Phase::fault` about a fault, `CaptureSet` about the
//! pages. The model adds what surrounds that code. First, the kernel: a page is protected or not; a write to a
//! protected page goes into a queue and looks once more before it sleeps; a call changes page by page and wakes at its
//! end; a private page can be moved or swapped out and return at any moment. Second, the writers. Third, the order of
//! the steps of the branch, the handler and the bulk copy, which `protocol.rs` lists by the names of the functions. A
//! change of that order in `branch.rs` or `handler.rs` must be made there too. Early reads (`early.rs`) take a page as
//! the handler does, under the same two locks, and are no actor of their own here.
//!
//! The model keeps only this about a page's bytes: whether they are the lower layer's until the instant, and whether
//! they are the instant's after it. Every write is taken to change them. Between two steps each of the others may take
//! any number of steps, and memory is sequentially consistent: weaker orders are for the tests on real memory to find.
//!
//! Every reachable state is visited and must meet these conditions:
//! - a page that is not in the set has the lower layer's bytes at the instant: it has never been written;
//! - the sink receives each page of the set once, with the bytes of the instant, and has them all when the copy has
//!   succeeded. An aborted branch also keeps this, up to a failure that the branch reports;
//! - no assertion of the crate fires;
//! - wherever nothing can happen any more, every write has been made, the branch and the handler have ended, and nothing
//!   is protected. No state can repeat, so every course of events gets there.

mod explore;
mod machine;
mod pages;
mod protocol;
mod state;
mod steps;

use explore::explore;
use protocol::{Mistake, Protocol};

/// The events that may happen in a model, and how often.
#[derive(Debug, Clone, Copy)]
struct World {
    protocol: Protocol,
    /// Writes per writer, each to any page.
    writes: &'static [u8],
    /// Most pages that the bulk copy takes at a time.
    chunk: u8,
    /// Number of signals that interrupt a waiting writer.
    signals: u8,
    /// Number of pages that the kernel takes away to move or swap them.
    moves: u8,
    /// True if writers can be stopped only between two writes, so that a branch has to wait for a writer that waits
    /// itself. If false, they are stopped wherever they are.
    stops_between_writes: bool,
    /// True if the branch may be aborted before any of its steps.
    gives_up: bool,
    /// True if the handler may fail, once, at a page that it serves or that it gives to the sink.
    fails: bool,
}

/// A world whose pages are private or not at the beginning, in every combination.
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
        moves: 0,
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

// Together these cover: two writes that wait at the same time, for one page or for two; a page that is written before
// the scan, between the rounds, after them and after the instant, by one writer or by two; three pages, of which two
// can be in one chunk, one run or one round and the third in none of them. Three writers at a time, or a fourth page,
// are not covered. The bounds are as wide as half a minute on one core allows, in a debug build.

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
fn pages_that_the_kernel_moves_or_swaps_anywhere() {
    holds(World {
        moves: 3,
        ..world(2, &[2])
    });
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

/// Asserts that a model with this mistake fails in the `wanted` way.
fn goes_wrong(mistake: Mistake, wanted: &str) {
    let right = World {
        gives_up: true,
        moves: 2,
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
fn a_scan_that_takes_a_page_on_its_way_for_none_is_noticed() {
    goes_wrong(Mistake::ListsOnlyWhatIsPresent, "are not in the set");
}

/// A page that is absent at the first look and present at the second is in neither list.
#[test]
fn a_scan_in_two_looks_that_a_page_can_slip_between_is_noticed() {
    goes_wrong(Mistake::LooksForPresentAndAwayInTurn, "are not in the set");
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
