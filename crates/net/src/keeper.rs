//! The process that holds the wires, and starts the one that serves them.
//!
//! The keeper looks at no frame, so that a guest has no way to end it. When the worker ends, the keeper starts the next one and
//! gives it everything: no wire is lost.

use crate::lines::{self, Lines};
use crate::wires::Held;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A worker that lives shorter than this is not started again at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// The longest line of a worker that is logged.
const LOG_LINE_BYTES: u64 = 4_096;

/// A line from the worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeeperLine {
    /// Comes with the wire's socket and its ledger.
    Hold {
        key: String,
    },
    Release {
        key: String,
    },
    /// The keeper and the worker end.
    End,
}

/// A line to a worker that has started.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerLine {
    /// Comes with the socket of the controllers and the lock.
    Start(Settings),
    /// Comes with the wire's socket and its ledger.
    Wire { key: String },
    /// The last wire has been given.
    Ready,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    pub resolvers: Vec<SocketAddr>,
    /// An empty directory, which becomes the worker's root if the keeper is root.
    pub root: PathBuf,
}

pub struct Keeper {
    pub settings: Settings,
    pub listener: UnixListener,
    /// The worker holds it, too, so that no second keeper starts while a worker serves.
    pub lock: File,
}

impl Keeper {
    /// Starts workers, one after the other, until one is told to end.
    pub fn run(&self) -> io::Result<()> {
        let mut held = HashMap::new();
        loop {
            let started = Instant::now();
            let (stream, mut worker) = self.start()?;
            let is_end = self.serve(&stream, &mut held).unwrap_or_else(|error| {
                forkd_log::line("keeper", &format!("the worker is not understood: {error}"));
                false
            });
            // Only a worker that is not understood still runs.
            if !is_end {
                let _ = worker.kill();
            }
            let status = worker.wait()?;
            if is_end {
                return Ok(());
            }
            forkd_log::line(
                "keeper",
                &format!("the worker has ended, {status}; the next one is started"),
            );
            std::thread::sleep(SHORT_LIFE.saturating_sub(started.elapsed()));
        }
    }

    fn start(&self) -> io::Result<(UnixStream, Child)> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("forkd-net")
            .arg("--serve")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut worker = command.spawn()?;
        if let Some(errors) = worker.stderr.take() {
            let thread = std::thread::Builder::new().name("log".into());
            thread.spawn(move || copy_to_log(errors))?;
        }
        Ok((ours, worker))
    }

    /// Gives a worker everything, and notes what it attaches. Returns true if the keeper is to end.
    fn serve(&self, stream: &UnixStream, held: &mut HashMap<String, Held>) -> io::Result<bool> {
        let fds = [self.listener.as_fd(), self.lock.as_fd()];
        lines::send(stream, &WorkerLine::Start(self.settings.clone()), &fds)?;
        for (key, Held { socket, ledger }) in held.iter() {
            lines::send(
                stream,
                &WorkerLine::Wire { key: key.clone() },
                &[socket.as_fd(), ledger.as_fd()],
            )?;
        }
        lines::send(stream, &WorkerLine::Ready, &[])?;
        let mut lines = Lines::new(stream.try_clone()?);
        while let Some(line) = lines.next()? {
            match serde_json::from_slice(&line)? {
                KeeperLine::Hold { key } => {
                    let (Some(socket), Some(ledger)) = (lines.take_fd(), lines.take_fd()) else {
                        return Err(io::ErrorKind::InvalidData.into());
                    };
                    let ledger = ledger.into();
                    held.insert(key, Held { socket, ledger });
                }
                KeeperLine::Release { key } => drop(held.remove(&key)),
                KeeperLine::End => return Ok(true),
            }
        }
        Ok(false)
    }
}

fn copy_to_log(errors: impl Read) {
    let mut errors = BufReader::new(errors);
    loop {
        let mut line = Vec::new();
        match errors.by_ref().take(LOG_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => forkd_log::line("worker", String::from_utf8_lossy(&line).trim_end()),
        }
    }
}
