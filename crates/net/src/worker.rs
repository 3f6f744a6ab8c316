//! The process that serves the wires. It has no rights on the host but to make connections.

use crate::control;
use crate::filter;
use crate::journal::Journal;
use crate::keeper::{Settings, WorkerLine};
use crate::lines::Lines;
use crate::wires::{Held, Wires};
use forkd_linux_sys::confine::{self, Limit};
use forkd_linux_sys::fds;
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

/// The user of a worker is this number and its pid: above what is handed out to people, services and containers.
const USER_BASE: u32 = 1_879_048_192;

/// A keeper that takes nothing for so long is given up: it must not hold up the sandboxes.
const KEEPER_PATIENCE: Duration = Duration::from_secs(5);

/// Serves what the keeper gives, which it sends over standard input. Returns only after a failure.
pub fn run() -> io::Result<()> {
    forkd_log::to_stderr("forkd-net");
    std::panic::set_hook(Box::new(|panic| forkd_log::line("panic", &panic.to_string())));
    let keeper = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut lines = Lines::new(keeper.try_clone()?);
    let WorkerLine::Start(settings) = next(&mut lines)? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let listener = UnixListener::from(fd(&mut lines)?);
    // The lock is held for as long as this process runs.
    let _lock = fd(&mut lines)?;
    keeper.set_write_timeout(Some(KEEPER_PATIENCE))?;
    confine(&settings)?;
    let journal = Arc::new(Journal::default());
    let wires = Arc::new(Wires::new(settings.resolvers, journal.clone(), keeper));
    loop {
        match next(&mut lines)? {
            WorkerLine::Start(_) => return Err(io::ErrorKind::InvalidData.into()),
            WorkerLine::Wire { key } => {
                let held = Held {
                    socket: fd(&mut lines)?,
                    ledger: fd(&mut lines)?.into(),
                };
                wires.adopt(key, held);
            }
            WorkerLine::Ready => break,
        }
    }
    for stream in fds::connections(&listener) {
        let (wires, journal) = (wires.clone(), journal.clone());
        let thread = std::thread::Builder::new().name("control".into());
        // If no thread can start, the connection is closed, and the controller tries again.
        let _ = thread.spawn(move || control::converse(stream, wires, journal));
    }
    Ok(())
}

fn next(lines: &mut Lines) -> io::Result<WorkerLine> {
    let line = lines.next()?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(serde_json::from_slice(&line)?)
}

fn fd(lines: &mut Lines) -> io::Result<OwnedFd> {
    lines.take_fd().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Gives up what a worker does not need: files, if it is root its rights, and new programs' rights in any case.
fn confine(settings: &Settings) -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )?;
    confine::limit(Limit::CoreBytes, 0)?;
    if geteuid().is_root() {
        std::os::unix::fs::chroot(&settings.root)?;
        std::env::set_current_dir("/")?;
        confine::drop_bounding_set()?;
        confine::become_user(USER_BASE + std::process::id())?;
    }
    confine::forbid_new_privileges()?;
    filter::apply()
}
