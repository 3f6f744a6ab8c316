//! Proves that a write waits for its own page to be read, and for nothing else.

use super::area::Area;
use super::sinks::{Image, given_by_handler};
use super::storm::{assert_writable, await_that};
use crate::{Run, Sink, WpBranch};
use forkd_linux_sys::PAGE_SIZE;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

const PAGES: u64 = 256;

/// Holds up either the bulk copy or the fault handler at its first put, until the gate is opened.
struct Gate {
    image: Arc<Image>,
    holds_handler: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    held: Option<Run>,
    /// The answer to the thread that is held. `None` until the gate is opened.
    answer: Option<Result<(), i32>>,
}

impl Gate {
    fn new(area: &Area, holds_handler: bool) -> Arc<Gate> {
        Arc::new(Gate {
            image: Image::new(area),
            holds_handler,
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// Waits until a thread is held up, and returns the pages that it put.
    fn wait_for_held(&self) -> Run {
        await_that("somebody is held up", || self.state().held.is_some());
        self.state().held.expect("just seen")
    }

    fn open(&self, answer: Result<(), i32>) {
        self.state().answer = Some(answer);
        self.changed.notify_all();
    }
}

impl Sink for Gate {
    fn put(&self, run: Run, bytes: &[u8]) -> io::Result<()> {
        if given_by_handler() == self.holds_handler {
            let mut state = self.state();
            state.held.get_or_insert(run);
            let state = self.changed.wait_while(state, |state| state.answer.is_none());
            let answer = state.expect("no panic while held").answer.expect("just seen");
            answer.map_err(io::Error::from_raw_os_error)?;
        }
        self.image.put(run, bytes)
    }
}

/// Opens the gate when a test ends, even by a panic: otherwise its threads would wait forever.
struct Opened<'a>(&'a Gate);

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        if self.0.state().answer.is_none() {
            self.0.open(Ok(()));
        }
    }
}

#[test]
fn a_write_waits_for_its_own_page_only_while_the_bulk_copy_waits_for_the_sink() {
    let area = Area::layered(PAGES);
    // Write all pages but the last, which is therefore not in the set.
    (0..PAGES - 1).for_each(|page| area.write(page, 0, &[7]));
    let truth = area.bytes().to_vec();
    let sink = Gate::new(&area, false);
    let mut branch = WpBranch::arm(area.target.clone(), sink.clone()).expect("arm");
    branch.take().expect("take");
    std::thread::scope(|scope| {
        let opened = Opened(&sink);
        let copier = scope.spawn(|| {
            let copied = branch.copy(|| false);
            copied.and_then(|()| branch.finish())
        });
        let held = sink.wait_for_held();
        assert!(held.pages < PAGES / 2, "more than half is still to be read");
        for page in [held.page, held.page + held.pages - 1, PAGES - 1] {
            assert_writable(&area, page);
            assert!(
                !sink.image.has(page),
                "page {page} has been read, and nobody has kept it"
            );
        }
        for page in held.page + held.pages..PAGES - 1 {
            assert_writable(&area, page);
            await_that("the handler's page is kept", || sink.image.has(page));
        }
        assert!(!copier.is_finished(), "the bulk copy was held up all the while");
        drop(opened);
        let (set, statistics) = copier.join().expect("no panic").expect("copy");
        assert_eq!(set.len(), PAGES - 1);
        assert_eq!(statistics.pages_by_fault, PAGES - 1 - held.pages);
    });
    sink.image
        .assert_is(&area, &truth, "each page was written while it was captured");
}

#[test]
fn a_page_that_the_handler_could_not_keep_fails_the_branch_although_all_else_is_copied() {
    let area = Area::layered(PAGES);
    (0..PAGES).for_each(|page| area.write(page, 0, &[7]));
    let sink = Gate::new(&area, true);
    let mut branch = WpBranch::arm(area.target.clone(), sink.clone()).expect("arm");
    branch.take().expect("take");
    std::thread::scope(|scope| {
        let opened = Opened(&sink);
        assert_writable(&area, 3);
        assert_eq!(sink.wait_for_held().page, 3);
        let copier = scope.spawn(|| {
            let copied = branch.copy(|| false);
            copied.and_then(|()| branch.finish())
        });
        let kept = || (0..PAGES).filter(|page| sink.image.has(*page)).count() as u64;
        await_that("all but one page are kept", || kept() == PAGES - 1);
        sink.open(Err(libc::ENOMEM));
        let error = copier.join().expect("no panic").expect_err("a page is lost");
        let at = format!("{:#x}", 3 * PAGE_SIZE);
        assert!(error.to_string().contains(&at), "{error} names the page at {at}");
        drop(opened);
    });
    assert_eq!(area.protected_pages(), 0);
}
