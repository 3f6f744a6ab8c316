//! Nothing is left of forks that have ended, however they did: no descriptor, no thread, no process. Alone in its file, since
//! it counts what the process has.

mod common;

use common::{MIB_PAGES, fork, path_of, server, template, until, wait_for_end};
use forkd_linux_sys::fds;
use forkd_page_server::{PageServer, SessionOptions};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

fn count(what: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{what}"))
        .expect("it is there")
        .count()
}

fn refused(server: &PageServer) {
    let (ours, theirs) = UnixStream::pair().expect("a connection");
    let null = File::open("/dev/null").expect("it is there");
    fds::send_with_fds(&ours, b"[]", &[null.as_fd(), null.as_fd(), null.as_fd()]).expect("it is sent");
    assert!(server.serve(theirs, template(16), SessionOptions::default()).is_err());
}

#[test]
fn nothing_is_left_of_forks_that_have_ended() {
    let (server, template) = (server(), template(2 * MIB_PAGES));
    let path = path_of(&template);
    let mut before = (0, 0);
    for round in 0..25 {
        if round == 1 {
            before = (count("fd"), count("task"));
        }
        let populate = SessionOptions {
            populate: true,
            ..SessionOptions::default()
        };
        let mut killed = fork(&server, &template, &["--regions", "2"], SessionOptions::default());
        let mut shared = fork(
            &server,
            &template,
            &["--regions", "2", "--memory", &path],
            populate.clone(),
        );
        let detached = fork(&server, &template, &["--regions", "2"], populate);
        let given_up = fork(&server, &template, &["--regions", "2"], SessionOptions::default());
        killed.order("touch 0 100 3");
        shared.order("touch 0 100 3");
        refused(&server);
        killed.end();
        shared.end();
        wait_for_end(&detached.session);
        drop(given_up.session);
    }
    // A thread that a session has waited for is gone from there a moment later.
    until(&format!("there are {before:?} descriptors and threads again"), || {
        (count("fd"), count("task")) == before
    });
}
