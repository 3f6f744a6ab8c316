//! On a host without userfaultfd the server says so, once, before anything is handed to it.

use forkd_deny::deny;
use forkd_page_server::{PageError, PageServer, ServerOptions};

fn start(denied: &str) -> Result<(), PageError> {
    std::thread::scope(|scope| {
        let started = scope.spawn(|| {
            deny(&[denied.parse().expect("a denial")]).expect("deny");
            PageServer::start(ServerOptions::default()).map(drop)
        });
        started.join().expect("no panic")
    })
}

#[test]
fn a_kernel_without_userfaultfd_is_unsupported() {
    assert!(matches!(start("userfaultfd"), Err(PageError::Unsupported)));
}

#[test]
fn who_may_not_create_one_can_still_serve_those_of_others() {
    assert!(start("userfaultfd:EPERM").is_ok());
}
