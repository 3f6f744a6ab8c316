//! Children of a fork that runs, from the instant of its capture on, before anything of it has been copied: each has, byte for
//! byte, what the parent had at the instant, whatever the parent writes meanwhile.

mod common;

use common::{Dir, Image, MIB_PAGES, fork, server, storm, template, wait_for_end};
use forkd_page_server::{ServedBranch, SessionOptions};
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;

const PAGES: u64 = 16 * MIB_PAGES;
const REGIONS: [&str; 2] = ["--regions", "11,5"];

#[test]
fn children_start_before_during_and_after_the_copy() {
    let (server, template, dir) = (server(), template(PAGES), Dir::new());
    let mut parent = fork(&server, &template, &REGIONS, SessionOptions::default());
    let expected = dir.0.join("expected");
    let compare = format!("compare {} 2", expected.display());
    for round in 0..3 {
        let image = Arc::new(Image::default());
        parent.order("storm 1");
        let mut branch = ServedBranch::arm(&parent.session, image.clone()).expect("arm");
        storm(&mut parent, 2000, true);
        branch.settle().expect("settle");
        branch.take().expect("take");
        parent.order(&format!("expect {}", expected.display()));
        parent.order("storm 0");
        let early = Arc::new(branch.early(image.clone(), format!("early:{round}")));
        let child = |populate| {
            let options = SessionOptions {
                populate,
                ..SessionOptions::default()
            };
            fork(&server, &early, &REGIONS, options)
        };
        // Of these, everything has come out of turn.
        let mut first = child(false);
        assert_eq!(first.order(&compare)["bad"], 0, "before");
        let (mut second, mut third) = (child(true), child(false));
        second.vmm.begin(&compare).expect("it begins");
        third.vmm.begin(&compare).expect("it begins");
        branch.copy(|| false).expect("copy");
        let (set, _) = branch.finish().expect("finish");
        assert!(!set.is_empty());
        for child in [&mut second, &mut third] {
            assert_eq!(child.vmm.answer().expect("an answer")["bad"], 0, "during");
        }
        let mut last = child(false);
        assert_eq!(last.order(&compare)["bad"], 0, "after");
        let answer = parent.order("still");
        assert_eq!(answer["wrong"], 0, "{answer}");
    }
    parent.end();
}

#[test]
fn what_was_not_copied_of_a_capture_that_is_given_up_is_refused() {
    let (server, template) = (server(), template(PAGES));
    let mut parent = fork(&server, &template, &REGIONS, SessionOptions::default());
    parent.order("write 100 300");
    let image = Arc::new(Image::default());
    let mut branch = ServedBranch::arm(&parent.session, image.clone()).expect("arm");
    branch.take().expect("take");
    let early = Arc::new(branch.early(image, "early".into()));
    let mut child = fork(&server, &early, &REGIONS, SessionOptions::default());
    child.order("touch 100 10 1");
    drop(branch);
    parent.order("write 0 4096");
    // What nobody had written is the template's.
    assert_eq!(child.order("verify 1000 200 2")["bad"], 0);
    child.vmm.begin("touch 390 1 1").expect("it begins");
    let signal = child.vmm.wait().expect("it ends").signal();
    // Before Linux 6.6 a page cannot be refused, and the VMM is ended.
    assert!(matches!(signal, Some(libc::SIGBUS | libc::SIGKILL)), "{signal:?}");
    wait_for_end(&child.session);
    parent.end();
}
