//! The program as it is used: its document, and what it says of arguments that it cannot take.

use serde_json::Value;
use std::process::{Command, Output};

const MIB: u64 = 16;
/// Whether a write meets a page that is not copied yet is chance, and near to certain in each run.
const RUNS_MAX: usize = 10;

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkd-wp-bench"));
    command.args(arguments).output().expect("the program")
}

#[test]
fn the_document_has_the_figures_and_no_violation() {
    let mut faults = 0;
    for _ in 0..RUNS_MAX {
        let output = bench(&["--region-mib", &MIB.to_string(), "--writers", "3", "--json"]);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        check(&text);
        let report: Value = serde_json::from_str(&text).expect("JSON");
        faults += report["pages_by_fault"].as_u64().expect("a count");
        if faults > 0 {
            return;
        }
    }
    panic!("in {RUNS_MAX} runs no write met a page that was not copied yet");
}

fn check(text: &str) {
    let first = [
        "region_mib",
        "writers",
        "arm_ms",
        "copy_ms",
        "pages_by_copy",
        "pages_by_fault",
        "writes_per_s",
        "violations",
    ];
    // A parser may put them into another order.
    let keys = text.split('"').skip(1).step_by(2);
    assert!(keys.take(first.len()).eq(first), "{text}");
    let report: Value = serde_json::from_str(text).expect("JSON");
    let count = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("{key} in {text}"));
    assert_eq!((count("region_mib"), count("writers")), (MIB, 3));
    assert_eq!((count("violations"), count("lost_writes")), (0, 0));
    assert_eq!(count("pages_by_copy") + count("pages_by_fault"), MIB * 256);
    assert!(
        count("fault_waits") >= count("pages_by_fault"),
        "each was a writer's wait: {text}"
    );
    for key in [
        "/arm_ms",
        "/copy_ms",
        "/writes_per_s",
        "/take_us",
        "/writes_per_s_before",
        "/bare_round_trip_us/p50",
        "/bare_round_trip_us/p99",
        "/bare_round_trip_us/max",
        "/copy_mib_per_s",
        "/quiet_copy_mib_per_s",
        "/readv_mib_per_s",
        "/readv_reused_mib_per_s",
    ] {
        let figure = report.pointer(key).and_then(Value::as_f64);
        assert!(figure.is_some_and(|figure| figure > 0.0), "{key} in {text}");
    }
    for key in [
        "/fault_wait_us/p50",
        "/fault_wait_us/max",
        "/fault_wait_ratio/p99",
        "/touched_pages",
        "/settle_rounds",
    ] {
        assert!(report.pointer(key).is_some_and(Value::is_number), "{key} in {text}");
    }
}

#[test]
fn without_json_it_is_a_table() {
    let output = bench(&["--region-mib", "1", "--writers", "1"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        text.lines()
            .any(|line| line.starts_with("violations") && line.contains(" 0, 0 writes lost")),
        "{text}"
    );
}

#[test]
fn what_it_cannot_do_is_said_in_one_sentence() {
    for (arguments, named) in [
        (&["--region-mib"][..], "--region-mib"),
        (&["--region-mib", "0"], "\"0\""),
        (&["--region-mib", "many"], "\"many\""),
        (&["--region-mib", "99999999999"], "99999999999"),
        (&["--writers", "-1"], "\"-1\""),
        (&["--writers", "1000"], "1000"),
        (&["--frobnicate"], "--frobnicate"),
    ] {
        let output = bench(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(said.lines().count() == 1 && said.contains(named), "{said}");
    }
}
