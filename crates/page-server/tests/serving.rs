//! What a VMM finds in its memory: every page of it, whoever asks, however many at once, and whatever is given back
//! meanwhile. The VMM is a process of its own, which compares each word.

mod common;

use common::{Dir, HugePages, MIB_PAGES, fork, server, template, template_file, until, wait_for_end};
use forkd_page_server::{Cached, Ended, FileTemplate, MemoryTemplate, Record, Run, SessionOptions, Template};
use std::collections::HashMap;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[test]
fn every_page_of_several_regions_is_there_for_many_threads_at_once() {
    let (server, template) = (server(), template(24 * MIB_PAGES));
    let mut fork = fork(&server, &template, &["--regions", "16,5,3"], SessionOptions::default());
    fork.verify(24 * MIB_PAGES, 8);
    let stats = fork.end();
    assert_eq!(stats.copied + stats.zeroed, 24 * MIB_PAGES, "{stats:?}");
    assert!(stats.zeroed > 4 * MIB_PAGES, "zeros are not copied: {stats:?}");
    assert!(stats.wait.count == stats.faults, "{stats:?}");
}

#[test]
fn the_kernel_finds_its_pages_too() {
    let (server, template) = (server(), template(MIB_PAGES));
    let mut fork = fork(&server, &template, &["--regions", "1"], SessionOptions::default());
    for page in [0, 1, 100, 255] {
        let answer = fork.order(&format!("kernel-read {page}"));
        assert_eq!(answer["differs"], false, "{answer}");
    }
    fork.end();
}

#[test]
fn what_was_given_back_is_zeros_and_the_rest_is_not() {
    let (server, template) = (server(), template(4 * MIB_PAGES));
    for memory in ["anonymous", &common::path_of(&template)] {
        let arguments = ["--regions", "4", "--memory", memory];
        let mut fork = fork(&server, &template, &arguments, SessionOptions::default());
        // Some of it has been touched, and some not.
        fork.order("touch 100 150 2");
        fork.order("remove 200 100");
        assert_eq!(fork.order("zeros 200 100 4")["bad"], 0, "{memory}");
        fork.order("write 200 100");
        fork.order("remove 200 50");
        assert_eq!(fork.order("zeros 200 50 1")["bad"], 0, "{memory}");
        assert_eq!(fork.order("verify 0 200 2")["bad"], 0, "{memory}");
        assert_eq!(fork.order("verify 300 700 2")["bad"], 0, "{memory}");
        assert_eq!(fork.end().removed, 150, "{memory}");
    }
}

/// Copies are under way all the time: for faults, in the background, and from a source that must be read.
#[test]
fn memory_that_is_given_back_while_it_is_filled_is_zeros() {
    let (server, memory) = (server(), template(16 * MIB_PAGES));
    let dir = Dir::new();
    let path = dir.0.join("memory");
    template_file(&path, 16 * MIB_PAGES);
    let stored = Arc::new(Cached::new(FileTemplate::open(&path).expect("a template"), 4 << 20));
    let shared = common::path_of(&memory);
    race(&server, &memory, "anonymous", false);
    race(&server, &memory, "anonymous", true);
    race(&server, &memory, &shared, true);
    race(&server, &stored, "anonymous", false);
    race(&server, &stored, "anonymous", true);
}

/// Takes its time when a worker asks for one of the first pages, and tells of one of those times, of each page another one.
struct Dawdling {
    inner: Arc<MemoryTemplate>,
    asked: Mutex<(HashMap<u64, u64>, Sender<u64>)>,
}

impl Template for Dawdling {
    fn identity(&self) -> String {
        self.inner.identity()
    }

    fn pages(&self) -> u64 {
        self.inner.pages()
    }

    fn run(&self, page: u64, limit: u64) -> Run<'_> {
        if page < 150 && std::thread::current().name() == Some("pages") {
            let mut asked = self.asked.lock().expect("no panic while held");
            let times = asked.0.entry(page).or_default();
            *times += 1;
            if *times == 1 + page % 3 {
                asked.1.send(page).expect("it is listened to");
            }
            drop(asked);
            std::thread::sleep(Duration::from_millis(20));
        }
        self.inner.run(page, limit)
    }
}

/// Between the looking up of what was given back and the filling, too, which is else over in an instant.
#[test]
fn memory_that_is_given_back_in_the_middle_of_being_filled_is_zeros() {
    let (told, asked) = channel();
    let template = Arc::new(Dawdling {
        inner: template(MIB_PAGES),
        asked: Mutex::new((HashMap::new(), told)),
    });
    let options = SessionOptions {
        populate: true,
        ..SessionOptions::default()
    };
    let server = server();
    let mut fork = fork(&server, &template, &["--regions", "1"], options);
    let mut given_back = Vec::new();
    while given_back.len() < 30 {
        let page = asked
            .recv_timeout(Duration::from_secs(20))
            .expect("a worker comes to it");
        fork.order(&format!("remove {page} 1"));
        given_back.push(page);
    }
    wait_for_end(&fork.session);
    for page in given_back {
        assert_eq!(fork.order(&format!("zeros {page} 1 1"))["bad"], 0, "page {page}");
    }
    assert_eq!(fork.order("verify 160 96 2")["bad"], 0);
}

fn race(server: &forkd_page_server::PageServer, template: &Arc<impl Template>, memory: &str, populate: bool) {
    let options = SessionOptions {
        populate,
        ..SessionOptions::default()
    };
    let mut fork = fork(server, template, &["--regions", "11,5", "--memory", memory], options);
    let answer = fork.order("race 1500 3");
    assert_eq!(
        (&answer["wrong"], &answer["wrong_after"]),
        (&0.into(), &0.into()),
        "{memory} {populate}: {answer}"
    );
    assert!(answer["reads"].as_u64() > Some(100), "{answer}");
    fork.vmm.kill().expect("it lives");
    wait_for_end(&fork.session);
}

#[test]
fn what_one_fork_asked_for_the_next_one_finds() {
    let (server, template) = (server(), template(8 * MIB_PAGES));
    let mut first = fork(&server, &template, &["--regions", "8"], SessionOptions::default());
    first.order("touch 1000 300 1");
    first.order("touch 10 100 1");
    // A page is noted after the thread that asked for it has been woken.
    until("the last page is noted", || {
        first
            .session
            .record()
            .runs()
            .iter()
            .any(|run| (run.page..run.page + u64::from(run.pages)).contains(&109))
    });
    let record = first.session.record();
    assert_eq!(record.runs()[0].page, 1000, "in the order of asking");
    first.end();

    let dir = Dir::new();
    let path = dir.0.join("record");
    record.save(&path, &template.identity()).expect("it is written");
    let record = Record::load(&path, &template.identity(), template.pages()).expect("it is read");
    // Pages beside the ones that the first fork asked for may have been served with them.
    let recorded: u64 = record.runs().iter().map(|run| u64::from(run.pages)).sum();
    let options = SessionOptions {
        prefetch: Some(record),
        ..SessionOptions::default()
    };
    let mut second = fork(&server, &template, &["--regions", "8"], options);
    until("it is prefetched", || second.session.stats().prefetched == recorded);
    let before = second.session.stats();
    second.order("touch 1000 300 2");
    second.order("touch 10 100 2");
    assert_eq!(second.session.stats().faults, before.faults, "nothing of it is missing");
    second.verify(8 * MIB_PAGES, 2);
    second.end();
}

#[test]
fn a_fork_with_all_of_its_memory_is_left_to_itself() {
    let (server, template) = (server(), template(8 * MIB_PAGES));
    let options = SessionOptions {
        populate: true,
        ..SessionOptions::default()
    };
    let mut fork = fork(&server, &template, &["--regions", "5,3"], options);
    fork.order("remove 7 3");
    let ended = wait_for_end(&fork.session);
    assert!(matches!(ended, Ended::Detached), "{ended:?}");
    let stats = fork.session.stats();
    drop(fork.session);
    drop(server);
    let answer = fork.vmm.order("verify 10 2038 4").expect("nobody is needed for it");
    assert_eq!(answer["bad"], 0, "{answer} {stats:?}");
    assert_eq!(fork.vmm.order("zeros 7 3 1").expect("zeros")["bad"], 0);
    assert_eq!(fork.vmm.order("verify 0 7 1").expect("pages")["bad"], 0);
}

#[test]
fn pages_of_2_mib_are_served_whole() {
    // Four for a fork, and as many for the one before it, which need not be gone yet.
    let _reserved = match HugePages::reserve(8) {
        Ok(reserved) => reserved,
        Err(reason) => return common::skip(&reason),
    };
    let (server, template) = (server(), template(8 * MIB_PAGES));
    let arguments = ["--regions", "6,2", "--memory", "huge"];
    let mut served = fork(&server, &template, &arguments, SessionOptions::default());
    served.verify(8 * MIB_PAGES, 4);
    served.order("remove 512 512");
    assert_eq!(served.order("zeros 512 512 3")["bad"], 0);
    served.end();
    let options = SessionOptions {
        populate: true,
        ..SessionOptions::default()
    };
    let mut whole = fork(&server, &template, &arguments, options);
    let ended = wait_for_end(&whole.session);
    assert!(matches!(ended, Ended::Detached), "{ended:?}");
    assert_eq!(whole.vmm.order("verify 0 2048 2").expect("pages")["bad"], 0);
    drop(whole);
    let dir = Dir::new();
    let path = dir.0.join("memory");
    template_file(&path, 8 * MIB_PAGES);
    let stored = Arc::new(Cached::new(FileTemplate::open(&path).expect("a template"), 4 << 20));
    let mut read = fork(&server, &stored, &arguments, SessionOptions::default());
    read.verify(8 * MIB_PAGES, 3);
    assert!(read.end().fetched > 0);
}
