//! Signals by name.

use serde::Deserialize;
use ts_rs::TS;

const NAMES: [(&str, i32); 22] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("WINCH", libc::SIGWINCH),
    ("XCPU", libc::SIGXCPU),
    ("SYS", libc::SIGSYS),
];

/// A signal as a request names it: 15, "15", "TERM" or "SIGTERM".
#[derive(Deserialize, TS)]
#[serde(untagged)]
#[ts(export_to = "agent-wire.ts")]
pub enum Signal {
    Number(i32),
    Name(String),
}

impl Signal {
    pub fn number(&self) -> Option<i32> {
        let number = match self {
            Signal::Number(number) => *number,
            Signal::Name(name) => match name.parse() {
                Ok(number) => number,
                Err(_) => by_name(name)?,
            },
        };
        (1..=64).contains(&number).then_some(number)
    }
}

fn by_name(name: &str) -> Option<i32> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let found = NAMES.iter().find(|(known, _)| *known == name);
    found.map(|(_, number)| *number)
}

/// The name without SIG, or the number where it has none.
pub fn name(signal: i32) -> String {
    let found = NAMES.iter().find(|(_, number)| *number == signal);
    found.map_or_else(|| signal.to_string(), |(name, _)| (*name).to_owned())
}
