//! The worker may be killed: wires, names and neighbours outlive it. Nothing is left of what was closed.

use crate::internet::{Echo, local};
use crate::program::{Program, eventually, policy};
use forkd_protocol::net::{Answer, FaultCode, Op};
use std::net::Ipv4Addr;

#[test]
fn a_killed_worker_comes_back_on_the_same_wires() {
    let echo = Echo::start("127.0.0.1:0");
    let mut program = Program::start(local("api.test").address);
    let rules = ["api.test", "other.test", "127.0.0.1/32"];
    let (key, mut guest) = program.guest(&rules);
    guest.resolve("other.test");
    let address = guest.resolve("api.test").expect("an address");
    for _ in 0..3 {
        let idle = guest.connect(address, echo.port()).expect("a connection");
        program.kill_worker();
        let answer = program.ask(Op::Inventory);
        assert!(
            matches!(&answer, Ok(Answer::Inventory { wires }) if wires.len() == 1 && wires[0].key == key),
            "{answer:?}"
        );
        program.bind(&key, policy(&rules), None);
        // The guest sends nothing, and learns of the end all the same.
        guest.until("a reset", |guest| guest.is_closed(idle).then_some(()));
        let flow = guest.connect(address, echo.port()).expect("a connection");
        guest.send(flow, b"again");
        assert_eq!(guest.receive(flow, 5), b"again");
    }
}

#[test]
fn a_worker_outlives_its_keeper_and_keeps_a_second_one_out() {
    let echo = Echo::start("127.0.0.1:0");
    let mut program = Program::start(local("api.test").address);
    program.kill_keeper();
    let (_, mut guest) = program.guest(&["127.0.0.1/32"]);
    assert!(guest.connect(Ipv4Addr::LOCALHOST, echo.port()).is_some());
    assert_eq!(program.second().code(), Some(75));
}

#[test]
fn a_worker_has_no_rights_on_its_host() {
    let mut program = Program::start(local("api.test").address);
    let worker = program.worker_pid();
    let status = std::fs::read_to_string(format!("/proc/{worker}/status")).expect("a status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.trim_start_matches(':').trim().to_owned()
    };
    assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped in part: only root can give a worker a user and a root of its own");
        return;
    }
    for capabilities in ["CapEff", "CapPrm", "CapBnd", "CapInh"] {
        assert_eq!(field(capabilities).trim_start_matches('0'), "", "{capabilities}");
    }
    let user = 1_879_048_192 + worker;
    assert_eq!(field("Uid"), format!("{user}\t{user}\t{user}\t{user}"));
    let root = std::fs::read_dir(format!("/proc/{worker}/root/")).expect("a directory");
    assert_eq!(root.count(), 0);
}

#[test]
fn a_thousand_wires_leave_nothing_behind() {
    let mut program = Program::start(local("api.test").address);
    let worker = program.worker_pid();
    let descriptors = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a list").count();
    let threads = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/task")).expect("a list").count();
    let mut before = None;
    for turn in 0..1_000 {
        let (key, mut guest) = program.guest(&["127.0.0.1/32"]);
        assert!(guest.resolve("evil.test").is_none());
        program.ask(Op::Close { key: key.clone() }).expect("closed");
        assert_eq!(
            program.ask(Op::Stats { key }).expect_err("closed").code,
            FaultCode::UnknownKey
        );
        if turn == 10 {
            before = Some((descriptors(worker), descriptors(program.keeper_pid()), threads(worker)));
        }
    }
    let (in_worker, in_keeper, in_threads) = before.expect("a first count");
    // The thread of the last request may still be there, and the keeper may not have let go of the last wire.
    eventually("descriptors and threads as before", || {
        let is_flat = descriptors(worker) <= in_worker && descriptors(program.keeper_pid()) <= in_keeper;
        is_flat && threads(worker) <= in_threads
    });
}

#[test]
fn requests_that_cannot_be_right_are_refused_in_words() {
    let mut program = Program::start(local("api.test").address);
    let (key, _wire) = program.attach();
    let unbound = program.ask(Op::Mark { key: key.clone() });
    assert_eq!(unbound.expect_err("not bound").code, FaultCode::UnknownKey);
    program.send(Op::Attach { key: "short".into() }, None);
    let unknown = program.ask(Op::Hello);
    assert_eq!(
        unknown.expect_err("the answer to the line before").code,
        FaultCode::BadRequest
    );
    let mut program = Program::start(local("api.test").address);
    for rule in ["Upper.test", "no..dots", "300.0.0.0/8", "1.2.3.4/99", "-bad name"] {
        let set = Op::SetPolicy {
            key: key.clone(),
            policy: policy(&[rule]),
        };
        assert_eq!(program.ask(set).expect_err(rule).code, FaultCode::BadRequest, "{rule}");
    }
    // A stream socket is no wire.
    let (one, _two) = std::os::unix::net::UnixStream::pair().expect("a pair");
    program.send(
        Op::Attach {
            key: crate::program::key(),
        },
        Some(one.into()),
    );
    assert_eq!(program.ask(Op::Hello).expect_err("no wire").code, FaultCode::BadRequest);
}
