//! A template that is still on its way: what has come is served, what has not is waited for, by nobody else; and when the rest
//! does not come, no page is taken for zeros.

mod common;

use common::{Fork, HugePages, MIB_PAGES, fork, server, until, wait_for_end};
use forkd_linux_sys::PAGE_SIZE;
use forkd_page_server::{ArrivingTemplate, Ended, SessionOptions, Template};
use forkd_vmm_stand_in::pattern;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

const PAGES: u64 = 4 * MIB_PAGES;
const PATIENT: Duration = Duration::from_secs(60);
const PLAIN: [&str; 2] = ["--regions", "3,1"];

/// The stream's other end.
struct Feed {
    stream: UnixStream,
    bytes: Vec<u8>,
    sent: usize,
}

impl Feed {
    /// Sends all before `page`, and so many bytes of it, in pieces that are no pages.
    fn up_to(&mut self, page: u64, more: usize) {
        let end = page as usize * PAGE_SIZE + more;
        for piece in self.bytes[self.sent..end].chunks(10_000) {
            self.stream.write_all(piece).expect("it is read");
        }
        self.sent = end;
    }
}

fn arriving(pages: u64, stall: Duration) -> (Arc<ArrivingTemplate>, Feed) {
    let (theirs, stream) = UnixStream::pair().expect("a pair");
    let template = ArrivingTemplate::start(theirs, pages, "stream".into(), stall).expect("a template");
    let bytes = (0..pages).flat_map(pattern::bytes).collect();
    let sent = 0;
    (Arc::new(template), Feed { stream, bytes, sent })
}

fn wait_for(fork: &Fork) {
    let before = fork.session.stats().parked;
    until("a page is waited for", || fork.session.stats().parked > before);
}

#[test]
fn what_has_come_is_served_and_the_rest_as_it_comes() {
    let (server, (template, mut feed)) = (server(), arriving(PAGES, PATIENT));
    feed.up_to(600, 123);
    until("it has come", || template.arrived() == 600);
    let whole = SessionOptions {
        populate: true,
        ..SessionOptions::default()
    };
    let mut waits = fork(&server, &template, &PLAIN, SessionOptions::default());
    let ahead = fork(&server, &template, &PLAIN, whole);
    waits.vmm.begin(&format!("verify 0 {PAGES} 8")).expect("it begins");
    wait_for(&waits);
    // Others are served what there is, and memory can be given back that has not come.
    let mut other = fork(&server, &template, &PLAIN, SessionOptions::default());
    assert_eq!(other.order("verify 0 600 4")["bad"], 0);
    other.order("remove 700 50");
    assert_eq!(other.order("zeros 700 50 2")["bad"], 0);
    feed.up_to(601, 0);
    assert_eq!(other.order("verify 600 1 1")["bad"], 0);
    feed.up_to(PAGES, 0);
    let answer = waits.vmm.answer().expect("it goes on");
    assert_eq!(answer["bad"], 0, "{answer}");
    let ended = wait_for_end(&ahead.session);
    assert!(matches!(ended, Ended::Detached), "{ended:?}");
    let mut ahead = ahead.vmm;
    assert_eq!(ahead.order(&format!("verify 0 {PAGES} 2")).expect("pages")["bad"], 0);
    assert_eq!(other.order("verify 750 200 2")["bad"], 0);
    let stats = waits.end();
    assert!(stats.poisoned == 0 && stats.zeroed > 0, "{stats:?}");
    assert_eq!((template.arrived(), template.broken()), (PAGES, None));
}

#[test]
fn what_does_not_come_is_refused_and_is_never_zeros() {
    let server = server();
    let (ends, mut feed) = arriving(PAGES, PATIENT);
    feed.up_to(300, 77);
    let (stalls, mut silent) = arriving(PAGES, Duration::from_millis(300));
    silent.up_to(300, 0);
    let mut forks = [&ends, &stalls].map(|template| fork(&server, template, &PLAIN, SessionOptions::default()));
    forks[0].vmm.begin("kernel-read 300").expect("it begins");
    wait_for(&forks[0]);
    drop(feed);
    let refused = forks[0].vmm.answer().expect("it goes on");
    assert_eq!(refused["error"], libc::EFAULT, "{refused}");
    assert_eq!(forks[1].order("kernel-read 300")["error"], libc::EFAULT);
    for fork in &mut forks {
        assert_eq!(fork.order("verify 0 300 2")["bad"], 0);
        assert_eq!(fork.session.stats().poisoned, 1);
    }
    assert_eq!(
        ends.broken().as_deref(),
        Some("the stream ended before page 300 of 1024")
    );
    assert_eq!(
        stalls.broken().as_deref(),
        Some("the stream has brought nothing for 300ms")
    );
}

#[test]
fn a_huge_page_is_there_when_all_of_it_has_come() {
    let reserved = match HugePages::reserve(2) {
        Ok(reserved) => reserved,
        Err(reason) => return common::skip(&reason),
    };
    let (server, (template, mut feed)) = (server(), arriving(4 * MIB_PAGES, PATIENT));
    feed.up_to(700, 0);
    let arguments = ["--regions", "4", "--memory", "huge"];
    let mut fork = fork(&server, &template, &arguments, SessionOptions::default());
    assert_eq!(fork.order("verify 0 512 2")["bad"], 0);
    fork.vmm.begin("verify 512 512 2").expect("it begins");
    wait_for(&fork);
    feed.up_to(4 * MIB_PAGES, 0);
    assert_eq!(fork.vmm.answer().expect("it goes on")["bad"], 0);
    fork.end();
    drop(reserved);
}

/// Whoever asks at the very moment is not forgotten: the kernel lets those go on that wait, and then lets go of the memory, and in
/// between somebody may have begun to wait.
#[test]
fn a_fork_is_left_to_itself_while_its_threads_ask() {
    let server = server();
    for round in 0..200 {
        let (template, mut feed) = arriving(PAGES, PATIENT);
        feed.bytes = vec![0; PAGES as usize * PAGE_SIZE];
        feed.up_to(PAGES - 1, 0);
        let options = SessionOptions {
            populate: true,
            fault_around: 1,
            ..SessionOptions::default()
        };
        let mut fork = fork(&server, &template, &PLAIN, options);
        fork.vmm.begin(&format!("zeros 0 {} 8", PAGES - 1)).expect("it begins");
        until("it asks", || fork.session.stats().faults > 5 * (round % 20));
        feed.up_to(PAGES, 0);
        let answer = fork
            .vmm
            .answer()
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(answer["bad"], 0, "{answer}");
        let ended = wait_for_end(&fork.session);
        assert!(matches!(ended, Ended::Detached), "{ended:?}");
    }
}
