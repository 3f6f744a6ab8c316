//! Branches a KVM guest a few times and shows what each branch has cost and whether what it captured is right.

use forkd_kvm_round_trip::guest::{self, Mode};
use forkd_kvm_round_trip::machine::Stopped;
use forkd_kvm_round_trip::round_trip::{Outcome, Result, Source, branch};
use forkd_linux_sys::kvm::Kvm;
use std::process::ExitCode;

const ROUNDS: usize = 8;
const REPORTS: usize = 100;

fn main() -> ExitCode {
    match [Mode::Real, Mode::Long].into_iter().map(rounds).sum() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("forkd-kvm-round-trip: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How many rounds went wrong.
fn rounds(mode: Mode) -> Result<usize> {
    let kvm = Kvm::open().map_err(|error| format!("opening KVM: {error}"))?;
    let machine = Stopped::fresh(&kvm, mode)?;
    let source = Source::of(&machine)?;
    let mut running = machine.run();
    println!("{mode:?} mode");
    println!("     step   arm ms  pause us  touched  pages  faults  copied  differing  the child goes on");
    let mut failed = 0;
    for _ in 0..ROUNDS {
        running.reports(REPORTS)?;
        let (after, outcome) = branch(&source, running)?;
        running = after;
        let mut child = outcome.snapshot.restore(&kvm)?.run();
        let goes_on = child.reports(REPORTS)?.starts_with(&outcome.reports);
        show(&outcome, goes_on);
        failed += usize::from(!goes_on || outcome.differing_pages > 0 || outcome.wrong_pages > 0);
    }
    Ok(failed)
}

fn show(outcome: &Outcome, goes_on: bool) {
    let statistics = outcome.statistics;
    println!(
        "{:>9}{:>9.2}{:>10}{:>9}{:>7}{:>8}{:>8}{:>11}  {}",
        guest::steps(&outcome.snapshot.registers),
        statistics.arm.as_secs_f64() * 1e3,
        outcome.pause.as_micros(),
        statistics.touched_pages,
        outcome.pages,
        statistics.pages_by_fault,
        statistics.pages_by_copy,
        outcome.differing_pages,
        if goes_on { "from that step" } else { "WRONGLY" },
    );
}
