//! What happens when something dies, hangs, lies or cannot be read: to the VMM that it happens to, and to the others, which
//! must notice nothing. No page is ever taken for zeros.

mod common;

use common::{Dir, MIB_PAGES, fork, server, template, template_file, until, wait_for_end};
use forkd_linux_sys::PAGE_SIZE;
use forkd_page_server::{Content, Ended, FileTemplate, PageError, Run, SessionOptions, SourceError, Template};
use forkd_vmm_stand_in::{Vmm, pattern};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const PAGES: u64 = 4 * MIB_PAGES;

/// A template that is read, except where it goes wrong.
#[derive(Default)]
struct Troubled {
    /// Until this is opened, page 100 is not there.
    gate: Mutex<bool>,
    opened: Condvar,
    /// So often, page 200 is not there yet.
    late: AtomicU64,
    waited_for: AtomicBool,
}

impl Troubled {
    fn open(&self) {
        *self.gate.lock().expect("no panic while held") = true;
        self.opened.notify_all();
    }
}

/// Opens it in any case: a test that fails must not wait for ever.
struct Gate(Arc<Troubled>);

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.open();
    }
}

impl Template for Troubled {
    fn identity(&self) -> String {
        "troubled".into()
    }

    fn pages(&self) -> u64 {
        PAGES
    }

    fn run(&self, page: u64, limit: u64) -> Run<'_> {
        Run {
            pages: limit.min(PAGES - page),
            content: Content::Stored,
        }
    }

    fn read(&self, page: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let pages = page..page + (buffer.len() / PAGE_SIZE) as u64;
        if pages.contains(&100) {
            self.waited_for.store(true, Ordering::SeqCst);
            let gate = self.gate.lock().expect("no panic while held");
            drop(
                self.opened
                    .wait_while(gate, |open| !*open)
                    .expect("no panic while held"),
            );
        }
        if pages.contains(&200) && self.late.load(Ordering::SeqCst) > 0 {
            self.late.fetch_sub(1, Ordering::SeqCst);
            return Err(SourceError::NotYet("page 200 is on its way".into()));
        }
        if pages.contains(&300) {
            return Err(SourceError::Broken("page 300 is damaged".into()));
        }
        for (page, out) in pages.zip(buffer.chunks_exact_mut(PAGE_SIZE)) {
            out.copy_from_slice(&pattern::bytes(page));
        }
        Ok(())
    }
}

const PLAIN: [&str; 2] = ["--regions", "3,1"];

#[test]
fn a_vmm_that_dies_in_the_middle_is_noticed_and_the_others_are_not_disturbed() {
    let (server, template) = (server(), template(PAGES));
    let troubled = Arc::new(Troubled::default());
    let _gate = Gate(troubled.clone());
    let mut other = fork(&server, &template, &PLAIN, SessionOptions::default());
    let mut waits = fork(&server, &troubled, &PLAIN, SessionOptions::default());
    waits.vmm.begin("touch 100 1 1").expect("it begins");
    until("its page is waited for", || troubled.waited_for.load(Ordering::SeqCst));
    waits.vmm.kill().expect("it lives");
    let ended = wait_for_end(&waits.session);
    assert!(matches!(ended, Ended::VmmGone), "{ended:?}");
    // Without a fault, too.
    let idle = fork(&server, &template, &PLAIN, SessionOptions::default());
    idle.end();
    other.verify(PAGES, 4);
    troubled.open();
    other.end();
    assert_eq!(server.health().failed, 0);
}

#[test]
fn a_template_that_does_not_answer_holds_up_nobody_else() {
    let (server, memory) = (server(), template(PAGES));
    let troubled = Arc::new(Troubled::default());
    let _gate = Gate(troubled.clone());
    // Page 100 is in nobody else's way.
    let options = SessionOptions {
        fault_around: 1,
        ..SessionOptions::default()
    };
    let mut waits = fork(&server, &troubled, &PLAIN, options.clone());
    assert!(waits.order("touch-within 100 0")["word"].is_null());
    until("its page is waited for", || troubled.waited_for.load(Ordering::SeqCst));
    // Other pages of the same fork, memory that it gives back, that very page among it, and other forks.
    assert_eq!(waits.order("verify 110 80 2")["bad"], 0);
    waits.order("remove 98 10");
    let mut other = fork(&server, &memory, &PLAIN, SessionOptions::default());
    other.verify(PAGES, 4);
    let mut third = fork(&server, &troubled, &PLAIN, options);
    assert_eq!(third.order("verify 0 90 2")["bad"], 0);
    troubled.open();
    assert_eq!(
        waits.order("zeros 98 10 2")["bad"],
        0,
        "it was given back while it was read"
    );
    assert_eq!(third.order("verify 100 50 2")["bad"], 0);
}

#[test]
fn a_template_that_is_late_is_asked_again() {
    let server = server();
    let late = Arc::new(Troubled::default());
    late.late.store(6, Ordering::SeqCst);
    let mut fork = fork(&server, &late, &PLAIN, SessionOptions::default());
    assert_eq!(fork.order("verify 200 4 1")["bad"], 0);
    let stats = fork.end();
    assert!(stats.retries >= 4 && stats.poisoned == 0, "{stats:?}");
}

#[test]
fn a_page_that_cannot_be_had_is_refused_and_no_other_one_is() {
    let server = server();
    let troubled = Arc::new(Troubled::default());
    troubled.open();
    troubled.late.store(u64::MAX, Ordering::SeqCst);
    let options = SessionOptions {
        patience: Duration::from_millis(50),
        ..SessionOptions::default()
    };
    let mut fork = fork(&server, &troubled, &PLAIN, options);
    for page in [200, 300] {
        assert_eq!(fork.order(&format!("kernel-read {page}"))["error"], libc::EFAULT);
    }
    assert_eq!(fork.order("verify 0 200 2")["bad"], 0);
    assert_eq!(fork.order("verify 301 200 2")["bad"], 0);
    assert_eq!(fork.session.stats().poisoned, 2);
    // A page that is given back is zeros, whatever it was.
    fork.order("remove 200 1");
    assert_eq!(fork.order("zeros 200 1 1")["bad"], 0);
    fork.vmm.begin("touch 300 1 1").expect("it begins");
    assert_eq!(fork.vmm.wait().expect("it ends").signal(), Some(libc::SIGBUS));
    let ended = wait_for_end(&fork.session);
    assert!(matches!(ended, Ended::VmmGone), "{ended:?}");
}

#[test]
fn what_was_cut_off_a_file_is_not_zeros() {
    let (server, dir) = (server(), Dir::new());
    let path = dir.0.join("memory");
    template_file(&path, PAGES);
    let template = Arc::new(FileTemplate::open(&path).expect("a template"));
    let file = std::fs::File::options().write(true).open(&path).expect("it is there");
    file.set_len(500 * PAGE_SIZE as u64 + 100).expect("it is cut");
    let mut fork = fork(&server, &template, &PLAIN, SessionOptions::default());
    assert_eq!(fork.order("verify 0 500 2")["bad"], 0);
    assert_eq!(fork.order("kernel-read 500")["error"], libc::EFAULT);
    assert_eq!(fork.order("kernel-read 900")["error"], libc::EFAULT);
    fork.end();
}

#[test]
fn a_fault_outside_its_regions_ends_that_vmm_and_no_other() {
    let (server, template) = (server(), template(PAGES));
    let mut other = fork(&server, &template, &PLAIN, SessionOptions::default());
    let arguments = ["--regions", "3,1", "--register-more"];
    let mut lies = fork(&server, &template, &arguments, SessionOptions::default());
    lies.verify(PAGES, 2);
    lies.vmm.begin("outside").expect("it begins");
    assert_eq!(lies.vmm.wait().expect("it ends").signal(), Some(libc::SIGKILL));
    let ended = wait_for_end(&lies.session);
    assert!(
        matches!(ended, Ended::Failed(PageError::OutsideRegions { .. })),
        "{ended:?}"
    );
    other.verify(PAGES, 2);
    assert_eq!(server.health().failed, 1);
}

/// What closes the last descriptor of a userfaultfd lets the kernel answer with zeros: the VMM has to go first.
#[test]
fn a_vmm_that_is_given_up_does_not_live_to_see_zeros() {
    let (server, template) = (server(), template(PAGES));
    let arguments = ["--regions", "3,1", "--keep-no-uffd"];
    let mut fork = fork(&server, &template, &arguments, SessionOptions::default());
    fork.verify(100, 2);
    drop(fork.session);
    assert_eq!(fork.vmm.wait().expect("it ends").signal(), Some(libc::SIGKILL));
}

#[test]
fn a_vmm_that_hangs_up_after_its_handshake_is_served_on() {
    let (server, template) = (server(), template(PAGES));
    let arguments = ["--regions", "3,1", "--hang-up"];
    let mut fork = fork(&server, &template, &arguments, SessionOptions::default());
    fork.verify(PAGES, 2);
    fork.end();
}

/// Whoever connected need not be who the memory belongs to.
#[test]
fn memory_outlives_the_process_that_handed_it_over() {
    let (server, template, dir) = (server(), template(PAGES), Dir::new());
    let (ours, theirs) = (dir.0.join("server.sock"), dir.0.join("relay.sock"));
    let listener = UnixListener::bind(&ours).expect("a socket");
    let mut relay = Vmm::start(&ours, &["--relay", theirs.to_str().expect("a path")]).expect("a relay");
    relay.answer().expect("it listens");
    let mut vmm = Vmm::start(&theirs, &PLAIN).expect("a VMM");
    let (stream, _) = listener.accept().expect("it is handed over");
    let session = server
        .serve(stream, template, SessionOptions::default())
        .expect("a handshake");
    assert_eq!(session.pid() as u32, relay.pid());
    vmm.answer().expect("it is ready");
    assert_eq!(vmm.order("verify 0 100 2").expect("an answer")["bad"], 0);
    relay.kill().expect("it lives");
    assert_eq!(vmm.order(&format!("verify 0 {PAGES} 2")).expect("an answer")["bad"], 0);
    assert!(session.ended().is_none());
    vmm.kill().expect("it lives");
    let ended = wait_for_end(&session);
    assert!(matches!(ended, Ended::VmmGone), "{ended:?}");
}

#[test]
fn a_client_that_never_speaks_holds_up_nobody() {
    let (server, template) = (Arc::new(server()), template(PAGES));
    let (_silent, theirs) = UnixStream::pair().expect("a connection");
    let (their_server, their_template) = (server.clone(), template.clone());
    let waiting = std::thread::spawn(move || {
        let served = their_server.serve(theirs, their_template, SessionOptions::default());
        served.err().expect("it says nothing").to_string()
    });
    until("it is waited for", || server.health().handshakes == 1);
    let mut other = fork(&server, &template, &PLAIN, SessionOptions::default());
    other.verify(PAGES, 4);
    other.end();
    let reason = waiting.join().expect("no panic");
    assert!(reason.contains("said nothing"), "{reason}");
}

#[test]
fn a_server_that_drains_serves_those_that_it_has() {
    let (server, template) = (server(), template(PAGES));
    let mut last = fork(&server, &template, &PLAIN, SessionOptions::default());
    assert!(!server.drain(Duration::from_millis(20)));
    let (_ours, theirs) = UnixStream::pair().expect("a connection");
    let refused = server.serve(theirs, template.clone(), SessionOptions::default());
    assert!(matches!(refused.err(), Some(PageError::Draining)));
    last.verify(PAGES, 2);
    last.end();
    assert!(server.drain(Duration::from_secs(20)));
}

#[test]
fn a_vmm_that_makes_its_userfaultfd_block_is_ended_and_its_neighbour_is_served() {
    let server = server();
    let template = template(PAGES);
    let mut other = fork(&server, &template, &["--regions", "4"], SessionOptions::default());
    let mut fork = fork(&server, &template, &["--regions", "4"], SessionOptions::default());
    assert_eq!(fork.order("block")["blocks"], true);
    // A fault wakes the thread that serves it, which finds that it cannot wait for the next one.
    fork.vmm.begin("touch 0 1 1").expect("an order");
    let ended = wait_for_end(&fork.session);
    assert!(
        matches!(&ended, Ended::Failed(error) if error.to_string().contains("made to block")),
        "{ended:?}"
    );
    fork.vmm.wait().expect("it has been ended");
    other.verify(PAGES, 2);
    other.end();
    assert!(server.drain(Duration::from_secs(10)), "nothing is left");
}
