//! VMMs that mean harm, each a process of its own, and the pager as its controllers see it. Whatever a VMM does, a branch of it
//! ends, the pager goes on, and nobody else waits.

mod harness;
mod waiting;

use forkd_protocol::PAGE_SIZE;
use harness::{MEM_BYTES, Pager, open};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The promise of the docs about a branch whose monitor is wrong.
const BRANCH_MAX: Duration = Duration::from_secs(20);
fn branch(name: &str) -> Value {
    json!({ "op": "branch", "sandbox": name, "mode": "live", "resume": true, "audit": true })
}

fn unaudited(name: &str) -> Value {
    json!({ "op": "branch", "sandbox": name, "mode": "live", "resume": true, "audit": false })
}

fn release(name: &str) -> Value {
    json!({ "op": "release", "sandbox": name })
}

/// A branch of `harm`'s fails in time, and says why; an honest neighbour is branched meanwhile, and the pager keeps nothing.
fn fails(harm: &str, why: &str) {
    let mut pager = Pager::start();
    let _honest = pager.opened("honest", "nothing");
    let mut vmm = pager.opened("evil", harm);
    if harm == "blocks" {
        pager.await_attached("evil");
        assert_eq!(vmm.order("block").expect("an answer"), json!({ "blocks": true }));
    }
    let start = Instant::now();
    let evil = pager.controller.begin(branch("evil"));
    let done = pager.controller.request(branch("honest"));
    assert_eq!(done["result"]["audit"]["differing_pages"], 0, "{done}");
    let failed = pager.controller.wait(evil);
    assert!(start.elapsed() < BRANCH_MAX, "{:?}", start.elapsed());
    let message = failed["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains(why), "{failed}");
    for name in ["evil", "honest"] {
        assert_eq!(pager.controller.request(release(name))["kind"], "ok");
    }
    let left = pager.threads();
    assert!(
        !left.iter().any(|name| name == "faults" || name == "bridge"),
        "{left:?}"
    );
}

#[test]
fn a_vmm_that_makes_its_userfaultfd_block_fails_its_own_branch_alone() {
    fails("blocks", "made to block");
}

#[test]
fn a_vmm_that_withholds_its_memory_fails_its_own_branch_alone() {
    fails("withholds", "withholds memory");
}

#[test]
fn a_vmm_whose_monitor_is_slow_fails_its_own_branch_alone_and_in_time() {
    fails("is-slow", "did not answer within");
}

#[test]
fn a_vmm_that_stays_stopped_is_told_to_run_and_loses_its_priority_when_the_window_is_over() {
    let mut pager = Pager::start();
    let mut vmm = pager.opened("evil", "stays-stopped");
    let start = Instant::now();
    let failed = pager.controller.begin(branch("evil"));
    // From the window's beginning to its end.
    let mut urgent = Duration::ZERO;
    while start.elapsed() < Duration::from_secs(5) {
        let before = Instant::now();
        std::thread::sleep(Duration::from_millis(20));
        if vmm.order("urgent").expect("an answer") != json!(0) {
            urgent += before.elapsed();
        }
    }
    assert!(urgent > Duration::from_millis(200), "{urgent:?}");
    assert!(urgent < Duration::from_millis(3500), "{urgent:?}");
    let failed = pager.controller.wait(failed);
    assert_eq!(failed["error"]["code"], "vm_gone", "{failed}");
    let until = Instant::now() + Duration::from_secs(20);
    while !vmm
        .order("heard")
        .expect("an answer")
        .as_array()
        .expect("a list")
        .contains(&json!("cont"))
    {
        assert!(Instant::now() < until, "it was never told to run");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_vmm_that_conducts_its_pauses_is_branched_without_its_monitor() {
    let mut pager = Pager::start();
    let mut vmm = pager.opened("honest", "conducts");
    for round in 0..3 {
        let request = if round == 0 {
            branch("honest")
        } else {
            unaudited("honest")
        };
        let done = pager.controller.request(request);
        assert_eq!(done["result"]["stats"]["window"], "inside", "{done}");
        if round == 0 {
            assert_eq!(done["result"]["audit"]["differing_pages"], 0, "{done}");
        }
    }
    let heard = vmm.order("heard").expect("an answer");
    assert!(!heard.as_array().expect("a list").contains(&json!("stop")), "{heard}");
}

#[test]
fn a_vmm_that_conducts_no_pause_that_it_offered_fails_its_own_branch_alone() {
    fails("ignores-orders", "did not conduct the pause in time");
}

#[test]
fn a_vmm_that_claims_that_a_pause_is_over_fails_its_own_branch_alone() {
    fails("claims-done", "ended the pause unasked");
}

#[test]
fn a_vmm_that_writes_in_a_pause_of_its_own_harms_its_own_branch_alone() {
    fails("writes-on", "the audit found");
}

#[test]
fn a_vmm_that_never_ends_its_pause_is_told_to_run_and_fails_its_own_branch_alone() {
    fails("keeps-stopped", "did not conduct the pause in time");
    let mut pager = Pager::start();
    let mut vmm = pager.opened("evil", "keeps-stopped");
    assert_eq!(pager.controller.request(unaudited("evil"))["kind"], "err");
    let heard = vmm.order("heard").expect("an answer");
    assert!(heard.as_array().expect("a list").contains(&json!("cont")), "{heard}");
    assert_eq!(vmm.order("urgent").expect("an answer"), json!(0));
}

#[test]
fn a_vmm_that_ends_in_its_pause_fails_its_branch_at_once() {
    let mut pager = Pager::start();
    let mut vmm = pager.opened("evil", "keeps-stopped");
    let start = Instant::now();
    let failed = pager.controller.begin(unaudited("evil"));
    while vmm.order("urgent").expect("an answer") == json!(0) {
        assert!(start.elapsed() < BRANCH_MAX, "its pause begins");
    }
    vmm.kill().expect("its end");
    let failed = pager.controller.wait(failed);
    assert_eq!(failed["error"]["code"], "vm_gone", "{failed}");
}

#[test]
fn a_userfaultfd_that_reports_changes_is_refused() {
    let mut pager = Pager::start();
    let _vmm = pager.vmm("evil", "reports");
    let _opened = pager.controller.request(open("evil"));
    let failed = pager.controller.request(branch("evil"));
    assert_eq!(failed["error"]["code"], "vm_gone", "{failed}");
    assert!(pager.log().contains("reports changes"), "{}", pager.log());
}

#[test]
fn a_device_state_that_is_too_large_fails_the_branch_and_its_file_holds_nothing_afterwards() {
    let mut pager = Pager::start();
    let mut vmm = pager.opened("evil", "saves-too-much");
    for _ in 0..2 {
        let failed = pager.controller.request(branch("evil"));
        let message = failed["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("16777216 are allowed"), "{failed}");
    }
    let refilled = vmm.order("refill").expect("an answer");
    assert_eq!(refilled, json!({ "written": 0, "held": 0 }));
}

#[test]
fn a_vmm_that_accepts_no_connection_holds_up_only_who_opens_it() {
    let mut pager = Pager::start();
    let mut vmm = pager.vmm("evil", "accepts-nothing");
    let start = Instant::now();
    let opening = pager.controller.begin(open("evil"));
    let _honest = pager.opened("honest", "nothing");
    assert_eq!(pager.controller.request(branch("honest"))["kind"], "ok");
    let failed = pager.controller.wait(opening);
    assert_eq!(failed["error"]["code"], "vm_gone", "{failed}");
    assert!(start.elapsed() < BRANCH_MAX, "{:?}", start.elapsed());
    // Nobody waits for it when it is released either.
    let opening = pager.controller.begin(open("evil"));
    assert_eq!(pager.controller.request(release("evil"))["kind"], "ok");
    vmm.kill().expect("its end");
    assert_eq!(pager.controller.wait(opening)["kind"], "err");
}

#[test]
fn an_operation_that_has_a_sandbox_makes_others_busy_and_its_release_ends_it() {
    let mut pager = Pager::start();
    let _vmm = pager.opened("evil", "is-slow");
    let branches = [branch("evil"), branch("evil")].map(|request| pager.controller.begin(request));
    // Each request has a thread of its own: either of them may have the sandbox.
    let (refused, reply) = pager.controller.wait_for_first(&branches);
    assert_eq!(reply["error"]["code"], "busy", "{reply}");
    assert_eq!(pager.controller.request(release("evil"))["kind"], "ok");
    assert_eq!(pager.controller.wait(branches[1 - refused])["kind"], "err");
}

#[test]
fn a_branch_right_after_a_restart_waits_for_the_vmm_to_call() {
    let mut pager = Pager::start();
    let vmm = pager.opened("honest", "nothing");
    let pid = vmm.pid();
    pager.restart();
    std::fs::remove_file(pager.dir.0.join("honest/agent")).ok();
    pager.announce("honest", &json!({ "pid": pid }));
    assert_eq!(pager.controller.request(open("honest"))["kind"], "ok");
    let done = pager.controller.request(branch("honest"));
    assert_eq!(done["result"]["audit"]["differing_pages"], 0, "{done}");
    assert_eq!(done["result"]["audit"]["checked_pages"], MEM_BYTES / PAGE_SIZE);
}

#[test]
fn calls_that_fail_neither_fill_the_log_nor_forge_its_lines() {
    let pager = Pager::start();
    let shims = pager.dir.0.join("run/shims/shim.sock");
    for _ in 0..200 {
        let mut call = UnixStream::connect(&shims).expect("it listens");
        let forged = format!("x\nforkd-pager: all is well\u{1b}[2J{}", "y".repeat(3000));
        let hello = json!({ "protocol": 0, "sandbox": forged, "key": "", "wants": "plan" });
        writeln!(call, "{hello}").expect("it listens");
        let _ = std::io::copy(&mut call, &mut std::io::sink());
    }
    let log = pager.log();
    let who = format!("forkd-pager: process {}: ", std::process::id());
    assert!(log.lines().all(|line| line.starts_with(&who)), "{log}");
    assert!(log.lines().count() < 30, "{} lines", log.lines().count());
    assert!(log.len() < 100_000 && !log.contains('\u{1b}'), "{} bytes", log.len());
}
