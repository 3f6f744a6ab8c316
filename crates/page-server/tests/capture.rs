//! A fork's memory captured while its pages are served, its guest writing, reading and giving memory back: the image has, byte for
//! byte, what the guest had at the instant, and the guest itself never reads anything wrong. With the userfaultfd that Firecracker
//! makes, which asks for nothing that concerns writes, and with one that does.

mod common;

use common::{Dir, Fork, Image, MIB_PAGES, fork, server, storm, template, template_file, until, wait_for_end};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::maps::Mapped;
use forkd_page_server::{
    Cached, Content, Ended, FileTemplate, PageError, ServedBranch, SessionOptions, SourceError, Template,
};
use forkd_vmm_stand_in::pattern;
use std::sync::Arc;
use std::time::Duration;

const PAGES: u64 = 16 * MIB_PAGES;
const REGIONS: [&str; 2] = ["--regions", "11,5"];

/// How many pages the image has over the template, which together are what the guest says it had.
fn compare(image: &Image, expected: &[u8]) -> u64 {
    let pages = image.0.lock().expect("no panic while held");
    for (page, expected) in (0..PAGES).zip(expected.chunks(PAGE_SIZE)) {
        let same = match pages.get(&page) {
            Some(bytes) => bytes == expected,
            None => pattern::bytes(page) == expected,
        };
        assert!(same, "page {page}, captured: {}", pages.contains_key(&page));
    }
    pages.len() as u64
}

/// Captures a fork whose guest does not rest, and holds the image against what the guest knows.
fn capture(fork: &mut Fork, dir: &Dir, round: u64) -> (u64, u64) {
    let image = Arc::new(Image::default());
    fork.order("storm 1");
    let mut branch = ServedBranch::arm(&fork.session, image.clone()).expect("arm");
    storm(fork, 2000, true);
    branch.settle().expect("settle");
    fork.order("still");
    branch.take().expect("take");
    let path = dir.0.join("expected");
    fork.order(&format!("expect {}", path.display()));
    // Memory that is given back from here on would be lost.
    fork.order("storm 0");
    if round.is_multiple_of(2) {
        storm(fork, 3000, false);
        fork.order("storm 0");
    }
    branch.copy(|| false).expect("copy");
    let (set, statistics) = branch.finish().expect("finish");
    let expected = std::fs::read(&path).expect("it was written");
    assert_eq!(compare(&image, &expected), set.len());
    storm(fork, 2000, true);
    (
        statistics.pages_by_fault,
        statistics.touched_pages + u64::from(statistics.rounds),
    )
}

fn captures(fork: &mut Fork, rounds: u64) {
    let dir = Dir::new();
    let (mut faults, mut touched) = (0, 0);
    for round in 0..rounds {
        let met = capture(fork, &dir, round);
        faults += met.0;
        touched += met.1;
    }
    let stats = fork.session.stats();
    assert!(
        faults > 0 && touched > 0,
        "there was something to get wrong: {faults} {touched}"
    );
    assert!(stats.faults > 0 && stats.removed > 0, "{stats:?}");
    let answer = fork.order("still");
    assert_eq!(answer["wrong"], 0, "{answer}");
}

#[test]
fn an_image_is_right_while_pages_are_served_and_given_back() {
    let (server, template) = (server(), template(PAGES));
    let mut fork = fork(&server, &template, &REGIONS, SessionOptions::default());
    captures(&mut fork, 6);
    fork.end();
}

#[test]
fn an_image_is_right_where_the_vmm_asked_for_write_faults_itself() {
    let (server, template) = (server(), template(PAGES));
    let arguments = [&REGIONS[..], &["--watchable"]].concat();
    let mut fork = fork(&server, &template, &arguments, SessionOptions::default());
    captures(&mut fork, 4);
    fork.end();
}

/// A template that takes its time to be read.
struct Slow<T>(T);

impl<T: Template> Template for Slow<T> {
    fn identity(&self) -> String {
        self.0.identity()
    }

    fn pages(&self) -> u64 {
        self.0.pages()
    }

    fn run(&self, page: u64, limit: u64) -> forkd_page_server::Run<'_> {
        let run = self.0.run(page, limit);
        assert!(run.content == Content::Stored);
        run
    }

    fn read(&self, page: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        std::thread::sleep(Duration::from_millis(20));
        self.0.read(page, buffer)
    }

    fn is_mapped_by(&self, mapped: &Mapped, page: u64) -> bool {
        self.0.is_mapped_by(mapped, page)
    }
}

#[test]
fn an_image_is_right_while_all_of_memory_is_read_and_filled_in_the_background() {
    let (server, dir) = (server(), Dir::new());
    let path = dir.0.join("memory");
    template_file(&path, PAGES);
    let file = Slow(FileTemplate::open(&path).expect("a template"));
    let template = Arc::new(Cached::new(file, 4 << 20));
    let options = SessionOptions {
        populate: true,
        ..SessionOptions::default()
    };
    let mut fork = fork(&server, &template, &REGIONS, options);
    captures(&mut fork, 3);
    // It is served on: whoever watched it once may do so again.
    assert!(fork.session.ended().is_none());
    fork.end();
}

#[test]
fn memory_that_is_given_back_after_the_instant_fails_the_capture_and_nothing_else() {
    let (server, template) = (server(), template(PAGES));
    let mut fork = fork(&server, &template, &REGIONS, SessionOptions::default());
    fork.order("write 100 50");
    fork.order("touch 200 50 1");
    let image = Arc::new(Image::default());
    let mut branch = ServedBranch::arm(&fork.session, image).expect("arm");
    branch.take().expect("take");
    // Nobody had touched these: they are the template's in the image, whatever becomes of them.
    fork.order("remove 1000 10");
    fork.order("remove 120 1");
    let failed = branch.copy(|| false).and_then(|()| branch.finish().map(|_| ()));
    let error = failed.expect_err("a page is lost").to_string();
    assert!(
        error.contains("copying pages 120 to 121 in time: the source gave them back"),
        "{error}"
    );
    for piece in ["zeros 120 1 1", "zeros 1000 10 1", "verify 200 50 1"] {
        assert_eq!(fork.order(piece)["bad"], 0, "{piece}");
    }
    // Everything can be written, and captured again.
    fork.order("write 0 4096");
    let mut branch = ServedBranch::arm(&fork.session, Arc::new(Image::default())).expect("arm again");
    branch.take().expect("take");
    branch.copy(|| false).expect("copy");
    let (set, _) = branch.finish().expect("finish");
    assert_eq!(set.len(), PAGES);
    fork.end();
}

#[test]
fn a_capture_that_is_given_up_leaves_nothing_protected() {
    let (server, template) = (server(), template(PAGES));
    let mut fork = fork(&server, &template, &REGIONS, SessionOptions::default());
    fork.order("storm 1");
    for taken in [false, true] {
        let mut branch = ServedBranch::arm(&fork.session, Arc::new(Image::default())).expect("arm");
        let other = ServedBranch::arm(&fork.session, Arc::new(Image::default())).err();
        assert!(matches!(other, Some(PageError::Unwatchable { .. })), "{other:?}");
        if taken {
            fork.order("still");
            branch.take().expect("take");
            fork.order("storm 0");
        }
        drop(branch);
        storm(&mut fork, 20_000, true);
        fork.order("storm 1");
    }
    fork.order("still");
    assert_eq!(fork.order("write 0 4096")["bad"], 0);
    fork.end();
}

#[test]
fn a_fork_that_cannot_be_watched_is_refused() {
    let (server, template) = (server(), template(PAGES));
    let refused = |fork: &Fork| {
        let error = ServedBranch::arm(&fork.session, Arc::new(Image::default())).err();
        error.expect("refused").to_string()
    };
    let path = common::path_of(&template);
    let mapped = fork(
        &server,
        &template,
        &["--regions", "16", "--memory", &path],
        SessionOptions::default(),
    );
    assert!(refused(&mapped).ends_with("it maps its template"));
    mapped.end();
    let part = fork(&server, &template, &["--regions", "8"], SessionOptions::default());
    let image = Arc::new(Image::default());
    drop(ServedBranch::arm(&part.session, image).expect("the first half of the template is a whole of its own"));
    part.end();
    let options = SessionOptions {
        populate: true,
        ..SessionOptions::default()
    };
    let whole = fork(&server, &template, &REGIONS, options);
    assert!(matches!(wait_for_end(&whole.session), Ended::Detached));
    until("it says so", || refused(&whole).ends_with("it has been left to itself"));
}
