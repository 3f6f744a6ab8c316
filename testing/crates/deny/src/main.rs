//! `forkd-deny NAME[:ERRNO] … -- COMMAND ARGUMENTS…`: becomes a command, for which, and for whose children, the named calls
//! fail.

use forkd_deny::{Denial, deny};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut parts = arguments.splitn(2, |argument| argument == "--");
    let (Some(names), Some([program, rest @ ..])) = (parts.next(), parts.next()) else {
        eprintln!("usage: forkd-deny NAME[:ERRNO] … -- COMMAND ARGUMENTS…");
        return ExitCode::from(2);
    };
    let denied = names
        .iter()
        .map(|name| name.parse())
        .collect::<Result<Vec<Denial>, String>>()
        .and_then(|denials| deny(&denials).map_err(|error| format!("installing a filter: {error}")));
    if let Err(reason) = denied {
        eprintln!("forkd-deny: {reason}");
        return ExitCode::from(2);
    }
    // `exec` returns only after a failure.
    let error = Command::new(program).args(rest).exec();
    eprintln!("forkd-deny: starting {program}: {error}");
    ExitCode::FAILURE
}
