//! The program: the command runs with the filter, so do its children, and its end is its own.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_forkd-deny"))
        .args(arguments)
        .output()
        .expect("it starts")
}

/// How many filters this process has itself.
fn filters() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").expect("own status");
    let line = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
    line.expect("Linux 5.9 or newer").trim().parse().expect("a number")
}

#[test]
fn a_command_and_its_children_have_the_filter() {
    let own = env!("CARGO_BIN_EXE_forkd-deny");
    // One inside the other: the inner one's command has both filters.
    let script = r#"grep "Seccomp_filters" /proc/self/status; sh -c 'grep "NoNewPrivs" /proc/self/status'; exit 7"#;
    let outer = [
        "process_vm_readv:EPERM",
        "--",
        own,
        "userfaultfd",
        "pagemap-scan",
        "--",
        "sh",
        "-c",
        script,
    ];
    let Output { status, stdout, stderr } = run(&outer);
    let text = String::from_utf8_lossy(&stdout);
    let wanted = format!("Seccomp_filters:\t{}\nNoNewPrivs:\t1\n", filters() + 2);
    assert_eq!(text, wanted, "{}", String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(7));
}

#[test]
fn what_it_cannot_do_is_said_and_nothing_is_run() {
    for arguments in [
        &["userfaultfd"][..],
        &["--"],
        &["nonsense", "--", "true"],
        &["userfaultfd:E", "--", "true"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
    let missing = run(&["userfaultfd", "--", "/nowhere/program"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/nowhere/program"));
}
