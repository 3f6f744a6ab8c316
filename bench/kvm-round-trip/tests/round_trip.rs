//! A live branch of a KVM guest has memory and registers of one instant: held against a copy made while the processor was
//! stopped, against what the registers say memory must hold, and by running the branch, in which the guest checks every page
//! before it writes it again. Real KVM, real userfaultfd; skipped only where `/dev/kvm` cannot be opened.

use forkd_kvm_round_trip::guest::{self, Mode};
use forkd_kvm_round_trip::machine::{Running, Stopped};
use forkd_kvm_round_trip::round_trip::{Outcome, Source, branch};
use forkd_linux_sys::kvm::Kvm;
use std::fs::OpenOptions;
use std::io::Write;

/// The guest has been over all of its memory at least once after so many reports.
const REPORTS_A_PASS: usize = (guest::WRITTEN as usize).div_ceil(guest::STEPS_A_REPORT as usize);

fn kvm() -> Option<Kvm> {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        // Not by `eprintln`, which the test runner keeps to itself; and at once, since other tests have something to say too.
        let reason = format!("skipped: /dev/kvm cannot be opened: {error}\n");
        let _ = std::io::stderr().write_all(reason.as_bytes());
        return None;
    }
    Some(Kvm::open().expect("a usable KVM"))
}

/// Branches a machine, and lets a child go on from the branch for two passes.
fn round(kvm: &Kvm, source: &Source, running: Running) -> (Running, Stopped, Outcome) {
    let (running, outcome) = branch(source, running).expect("branch");
    assert_eq!(outcome.differing_pages, 0, "against a copy made at the instant");
    assert_eq!(outcome.wrong_pages, 0, "against the registers");
    let mut child = outcome.snapshot.restore(kvm).expect("restore").run();
    let reports = child
        .reports(2 * REPORTS_A_PASS)
        .expect("the child finds its pages right");
    let first = guest::steps(&outcome.snapshot.registers).next_multiple_of(guest::STEPS_A_REPORT);
    let wanted: Vec<u32> = (0..reports.len() as u32)
        .map(|i| outcome.reports[0] + i * guest::STEPS_A_REPORT)
        .collect();
    assert!(
        reports == wanted && [first, first + guest::STEPS_A_REPORT].contains(&reports[0]),
        "{first}, {reports:?}"
    );
    assert!(
        reports.starts_with(&outcome.reports),
        "as its source did from the same instant"
    );
    let child = child.stop().expect("stop");
    assert_right(&child);
    (running, child, outcome)
}

fn assert_right(machine: &Stopped) {
    let steps = guest::steps(&machine.registers().expect("registers"));
    assert_eq!(guest::wrong_pages(machine.bytes(), steps), [0; 0]);
}

fn again_and_again(mode: Mode) {
    let Some(kvm) = kvm() else { return };
    let machine = Stopped::fresh(&kvm, mode).expect("a machine");
    let source = Source::of(&machine).expect("userfaultfd");
    let mut running = machine.run();
    for number in 0..5 {
        running.reports(1 + number * 41).expect("the guest gets on");
        let (after, _, outcome) = round(&kvm, &source, running);
        running = after;
        running
            .reports(REPORTS_A_PASS)
            .expect("the source finds its pages right");
        assert!(outcome.pages <= guest::WRITTEN.into(), "the program is not private");
        // From the second time on, all else is, and so much of it has been written between the instant and the copy.
        if number > 0 {
            assert_eq!(outcome.pages, guest::WRITTEN.into());
            assert!(outcome.statistics.pages_by_fault >= guest::STEPS_A_REPORT.into());
        }
    }
    assert_right(&running.stop().expect("stop"));
}

#[test]
fn a_guest_in_real_mode_is_branched_again_and_again_and_each_child_goes_on_from_its_instant() {
    again_and_again(Mode::Real);
}

#[test]
fn so_is_one_in_long_mode_whose_faults_are_met_by_the_processor() {
    again_and_again(Mode::Long);
}

#[test]
fn a_child_is_branched_like_its_source() {
    let Some(kvm) = kvm() else { return };
    let mut machine = Stopped::fresh(&kvm, Mode::Long).expect("a machine");
    for _ in 0..3 {
        let source = Source::of(&machine).expect("userfaultfd");
        let mut running = machine.run();
        running.reports(7).expect("the guest gets on");
        (_, machine, _) = round(&kvm, &source, running);
    }
}

/// Else the tests above might pass whatever was captured.
#[test]
fn registers_of_another_instant_are_noticed() {
    let Some(kvm) = kvm() else { return };
    let machine = Stopped::fresh(&kvm, Mode::Real).expect("a machine");
    let source = Source::of(&machine).expect("userfaultfd");
    let mut running = machine.run();
    running.reports(REPORTS_A_PASS).expect("the guest gets on");
    let (_running, mut outcome) = branch(&source, running).expect("branch");
    outcome.snapshot.registers.general.rbp += 1;
    let mut child = outcome.snapshot.restore(&kvm).expect("restore").run();
    let error = child.reports(REPORTS_A_PASS).expect_err("a step too far");
    assert!(error.to_string().contains("wrong page"), "{error}");
}
