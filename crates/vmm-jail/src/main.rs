//! `forkd-jail run … -- PROGRAM ARGUMENTS…`: opens what a VMM needs, gives up all else, and becomes the VMM.
//! `forkd-jail probe DIR`: tries each step on itself and prints what became of it, as JSON.
//! `forkd-jail lock`: locks the open file that is its standard input, for its caller, who cannot. Ends with status
//! [`ANOTHER_HOLDS`] where somebody else has the lock. It belongs to the open file: it stays when the launcher has ended, and
//! goes with the caller.
//!
//! The lifecycle of a run, in order:
//! 1. All that the VMM needs of the host is opened or made, and left to it under fixed descriptors ([`inheritance`]).
//! 2. It joins its cgroup, if it has one.
//! 3. Namespaces, and a root with nothing in it but programs, libraries and three devices ([`root`]).
//! 4. Limits, then the user and the capabilities: from there on nothing more could be given up, nor be had back.
//! 5. It becomes the VMM. Its pid is the launcher's.
//!
//! Which steps are taken is said by the caller, who has seen a probe. A step that was asked for and fails ends the start with
//! status [`EXIT_STATUS`] and one line on standard error: no VMM runs with less than was said.

mod arguments;
mod inheritance;
mod limits;
mod network;
mod probe;
mod root;
mod step;

use arguments::{Arguments, Run};
use forkd_linux_sys::confine;
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use step::Step;

/// How the launcher ends when it could not start the VMM.
const EXIT_STATUS: u8 = 96;
/// How it ends when another process holds the lock.
const ANOTHER_HOLDS: u8 = 75;

fn main() -> ExitCode {
    let done = match arguments::parse(std::env::args().skip(1)) {
        Ok(Arguments::Probe { dir }) => probe::run(&dir).map_err(|error| format!("probing: {error}")),
        Ok(Arguments::Lock) => return lock(),
        Ok(Arguments::Run(run)) => start(&run),
        Err(reason) => {
            eprintln!("forkd-jail: {reason}\n{}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => failed(&reason),
    }
}

fn lock() -> ExitCode {
    let file = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(owned) => File::from(owned),
        Err(error) => return failed(&format!("standard input: {error}")),
    };
    match file.try_lock() {
        Ok(()) => ExitCode::SUCCESS,
        Err(TryLockError::WouldBlock) => ExitCode::from(ANOTHER_HOLDS),
        Err(TryLockError::Error(error)) => failed(&format!("locking standard input: {error}")),
    }
}

fn failed(reason: &str) -> ExitCode {
    eprintln!("forkd-jail: {reason}");
    ExitCode::from(EXIT_STATUS)
}

/// Starts the VMM in place of this process. Returns only after a failure.
fn start(run: &Run) -> Result<(), String> {
    let program = find(&run.program)?;
    let inheritance = inheritance::prepare(run)?;
    if let Some(cgroup) = &run.cgroup {
        let procs = cgroup.join("cgroup.procs");
        // Zero is the writer itself.
        std::fs::write(&procs, "0").map_err(|error| format!("joining {}: {error}", procs.display()))?;
    }
    for step in Step::ALL.into_iter().filter(|step| run.steps.contains(step)) {
        take(step, run).map_err(|error| format!("{}: {error}", step.id()))?;
    }
    inheritance
        .bequeath()
        .map_err(|error| format!("leaving the VMM its descriptors: {error}"))?;
    let mut command = Command::new(&program);
    command
        .arg0(&run.program)
        .args(&run.arguments)
        .envs(inheritance.environment());
    Err(format!("starting {}: {}", program.display(), command.exec()))
}

/// Takes one step, for good.
fn take(step: Step, run: &Run) -> io::Result<()> {
    match step {
        Step::NetworkNamespace => confine::unshare(confine::Namespace::Network),
        Step::IpcNamespace => confine::unshare(confine::Namespace::Ipc),
        Step::UtsNamespace => confine::unshare(confine::Namespace::Uts),
        Step::MountNamespace => {
            confine::unshare(confine::Namespace::Mount)?;
            root::enter(&run.dir, run.pager_dir())
        }
        Step::ResourceLimits => limits::apply(run.steps.contains(&Step::OwnUser)),
        // A process without capabilities gains none, either.
        Step::NoCapabilities if probe::capabilities()? == 0 => Ok(()),
        Step::NoCapabilities => confine::drop_bounding_set(),
        // No two processes that run have the same number, so that no two VMMs are the same user.
        Step::OwnUser => confine::become_user(step::USER_BASE + std::process::id()),
        Step::NoNewPrivileges => confine::forbid_new_privileges(),
    }
}

/// Where a program is, without links on the way, some of which are not there in the VMM's root.
fn find(name: &Path) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path);
    let mut places = dirs.map(|dir| dir.join(name)).chain([name.to_path_buf()]);
    let found = places.find(|place| place.components().count() > 1 && place.is_file());
    let found = found.ok_or_else(|| format!("there is no program {}", name.display()))?;
    found
        .canonicalize()
        .map_err(|error| format!("looking at {}: {error}", found.display()))
}
