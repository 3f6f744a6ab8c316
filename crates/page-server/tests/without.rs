//! On a host without userfaultfd the server says so, once, before anything is handed to it. On one where a page cannot be
//! refused, a VMM whose page cannot be had is ended: it is never given zeros.

mod common;

use common::{Dir, MIB_PAGES, fork, template_file, wait_for_end};
use forkd_deny::deny;
use forkd_linux_sys::PAGE_SIZE;
use forkd_page_server::{Ended, FileTemplate, PageError, PageServer, ServerOptions, SessionOptions};
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;

/// Its threads are denied what the one that starts them is.
fn start(denied: &str) -> Result<PageServer, PageError> {
    std::thread::scope(|scope| {
        let started = scope.spawn(|| {
            deny(&[denied.parse().expect("a denial")]).expect("deny");
            PageServer::start(ServerOptions::default())
        });
        started.join().expect("no panic")
    })
}

#[test]
fn a_kernel_without_userfaultfd_is_unsupported() {
    assert!(matches!(start("userfaultfd").err(), Some(PageError::Unsupported)));
}

#[test]
fn who_may_not_create_one_can_still_serve_those_of_others() {
    assert!(start("userfaultfd:EPERM").is_ok());
}

#[test]
fn before_linux_6_6_a_vmm_whose_page_cannot_be_had_is_ended() {
    let (server, dir) = (start("userfaultfd-poison").expect("a server"), Dir::new());
    let path = dir.0.join("memory");
    template_file(&path, MIB_PAGES);
    let template = Arc::new(FileTemplate::open(&path).expect("a template"));
    let file = std::fs::File::options().write(true).open(&path).expect("it is there");
    file.set_len(100 * PAGE_SIZE as u64).expect("it is cut");
    // It keeps no descriptor of its own: were the last one closed too early, it would see zeros.
    let arguments = ["--regions", "1", "--keep-no-uffd"];
    let mut fork = fork(&server, &template, &arguments, SessionOptions::default());
    fork.verify(100, 2);
    fork.vmm.begin("touch 150 1 1").expect("it begins");
    assert_eq!(fork.vmm.wait().expect("it ends").signal(), Some(libc::SIGKILL));
    let ended = wait_for_end(&fork.session);
    assert!(
        matches!(ended, Ended::Failed(PageError::NoContent { page: 150, .. })),
        "{ended:?}"
    );
}
