//! Forks that map the template share its pages: of each, only what it has written is its own. Measured with smaps, of 20
//! forks and of 100, each of which first looks at every page. And forks that have their own memory: as many, every page.

mod common;

use common::{MIB_PAGES, fork, path_of, server, template};
use forkd_page_server::SessionOptions;
use std::os::unix::process::ExitStatusExt;

const MIB: u64 = 4;
const PAGES: u64 = MIB * MIB_PAGES;
const WRITTEN: u64 = 50;

fn shares(forks: usize) {
    let (server, template) = (server(), template(PAGES));
    let path = path_of(&template);
    let start = || {
        fork(
            &server,
            &template,
            &["--regions", "3,1", "--memory", &path],
            SessionOptions::default(),
        )
    };
    let mut forks: Vec<_> = (0..forks).map(|_| start()).collect();
    for fork in &mut forks {
        assert!(fork.session.is_shared());
        fork.vmm.begin(&format!("verify 0 {PAGES} 2")).expect("it reads");
    }
    for fork in &mut forks {
        assert_eq!(fork.vmm.answer().expect("an answer")["bad"], 0);
    }
    for fork in &mut forks {
        fork.order(&format!("write 100 {WRITTEN}"));
    }
    let count = forks.len() as u64;
    let (mut private, mut proportional) = (0, 0);
    for fork in &mut forks {
        let memory = fork.order("memory");
        let kib = |name: &str| memory[name].as_u64().expect("a number");
        assert_eq!(kib("anonymous_kib"), WRITTEN * 4, "only what was written: {memory}");
        private += kib("anonymous_kib");
        proportional += kib("pss_kib");
        // What was not written is still the template's.
        assert_eq!(fork.order("verify 0 100 1")["bad"], 0);
        let stats = fork.session.stats();
        assert_eq!(stats.copied, 0, "{stats:?}");
    }
    // The pages that are not zeros, once, and what was written.
    assert!(
        proportional < private + MIB * 1024 + count * 8,
        "{proportional} KiB in all, {private} private"
    );
    drop(forks);
    let total = server.stats();
    assert!(total.shared > 0 && total.copied == 0, "{total:?}");
}

#[test]
fn twenty_forks_share_all_that_they_do_not_write() {
    shares(20);
}

#[test]
fn a_hundred_forks_share_all_that_they_do_not_write() {
    shares(100);
}

#[test]
fn a_hundred_forks_with_memory_of_their_own_have_every_page() {
    let (server, template) = (server(), template(PAGES));
    let start = |index: u64| {
        let options = SessionOptions {
            populate: index.is_multiple_of(3),
            ..SessionOptions::default()
        };
        fork(&server, &template, &["--regions", "3,1"], options)
    };
    let mut forks: Vec<_> = (0..100).map(start).collect();
    for fork in &mut forks {
        fork.vmm.begin(&format!("verify 0 {PAGES} 2")).expect("it reads");
    }
    for fork in &mut forks {
        assert_eq!(fork.vmm.answer().expect("an answer")["bad"], 0);
    }
    assert_eq!(server.health().accepted, 100);
}

/// The kernel itself would give it the pages of that file, without a fault.
#[test]
fn a_mapping_of_another_file_is_refused() {
    let (server, template, other) = (server(), template(PAGES), template(PAGES));
    let dir = common::Dir::new();
    let path = dir.0.join("uffd.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    let arguments = ["--regions", "4", "--memory", &path_of(&other)];
    let mut vmm = forkd_vmm_stand_in::Vmm::start(&path, &arguments).expect("a stand-in");
    let (stream, _) = listener.accept().expect("it connects");
    let error = server
        .serve(stream, template, SessionOptions::default())
        .err()
        .expect("refused");
    assert!(error.to_string().contains("a file that is not the template"), "{error}");
    assert_eq!(vmm.wait().expect("it ends").signal(), Some(libc::SIGKILL));
}
