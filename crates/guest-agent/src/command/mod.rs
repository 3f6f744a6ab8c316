//! Commands: starting them, and the table of those that run or have run.

pub mod ring;
mod run;
pub mod session;
pub mod signals;
pub mod spawn;
pub mod users;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use tokio::net::unix::pipe;
use ts_rs::TS;

use crate::config::{Config, PATH_DEFAULT};
use crate::error::{ApiError, ErrorCode};
use crate::reaper::Reaper;
use crate::sys;
use run::Process;
use session::{CommandError, Exit, Info, Session};
use spawn::{Lookup, Program};

const RING_BYTES_DEFAULT: usize = 1024 * 1024;
const RING_BYTES_MIN: usize = 4 * 1024;
const RING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Finished commands that are remembered, and how much of their output, all together.
const FINISHED_MAX: usize = 256;
const FINISHED_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Commands that run at the same time.
const RUNNING_MAX: usize = 1024;

#[derive(Deserialize, TS)]
#[serde(deny_unknown_fields)]
#[ts(export_to = "agent-wire.ts", rename = "CommandRequest", optional_fields)]
pub struct Request {
    #[serde(default)]
    #[ts(as = "Option<_>")]
    args: Vec<String>,
    #[serde(default)]
    #[ts(as = "Option<_>")]
    env: BTreeMap<String, String>,
    cwd: Option<String>,
    user: Option<String>,
    #[serde(default)]
    #[ts(as = "Option<_>")]
    stdin: bool,
    timeout_ms: Option<u64>,
    output_limit: Option<usize>,
}

/// The sessions, oldest first.
#[derive(Default)]
pub struct Commands {
    sessions: Mutex<VecDeque<Arc<Session>>>,
}

impl Commands {
    /// Starts a command. One that is not there, or may not be executed, is a session too: it ends at once with 127 or 126.
    pub fn start(&self, reaper: &Reaper, config: &Config, request: Request) -> Result<Arc<Session>, ApiError> {
        let prepared = Prepared::new(config, request)?;
        if self.list().iter().filter(|info| info.running).count() >= RUNNING_MAX {
            let message = format!("{RUNNING_MAX} commands run already");
            return Err(ApiError::new(
                hyper::StatusCode::TOO_MANY_REQUESTS,
                ErrorCode::TooManyCommands,
                message,
            ));
        }
        let name = &prepared.args[0];
        let search = prepared.env.get("PATH").map_or(PATH_DEFAULT, String::as_str);
        let session = match spawn::look_up(name, search, &prepared.cwd) {
            Lookup::Found(path) => match prepared.spawn(reaper, &path) {
                Ok((session, process)) => {
                    tokio::spawn(run::run(session.clone(), process));
                    session
                }
                Err(error) => prepared.never_ran(&error)?,
            },
            Lookup::NotFound => prepared.never_ran(&io::ErrorKind::NotFound.into())?,
            Lookup::NotExecutable => prepared.never_ran(&io::ErrorKind::PermissionDenied.into())?,
        };
        let mut sessions = self.sessions.lock().expect("no holder panics");
        sessions.push_back(session.clone());
        forget_oldest(&mut sessions);
        Ok(session)
    }

    pub fn get(&self, id: &str) -> Result<Arc<Session>, ApiError> {
        let sessions = self.sessions.lock().expect("no holder panics");
        let found = sessions.iter().find(|session| session.id == id).cloned();
        found.ok_or_else(|| unknown(id))
    }

    pub fn list(&self) -> Vec<Info> {
        let sessions = self.sessions.lock().expect("no holder panics");
        sessions.iter().map(|session| session.info()).collect()
    }

    /// Kills the command where it runs, and forgets it.
    pub fn forget(&self, id: &str) -> Result<(), ApiError> {
        let mut sessions = self.sessions.lock().expect("no holder panics");
        let at = sessions.iter().position(|session| session.id == id);
        let session = at.and_then(|at| sessions.remove(at));
        let session = session.ok_or_else(|| unknown(id))?;
        // A group that has ended by itself in the meantime is what was asked for.
        let _ = session.signal(libc::SIGKILL);
        Ok(())
    }
}

fn unknown(id: &str) -> ApiError {
    ApiError::not_found(ErrorCode::UnknownCommand, format!("there is no command {id}"))
}

fn forget_oldest(sessions: &mut VecDeque<Arc<Session>>) {
    let mut count = 0;
    let mut bytes = 0;
    let mut keep: VecDeque<Arc<Session>> = VecDeque::new();
    for session in sessions.drain(..).rev() {
        let (weight, followed) = session.weight();
        let finished = session.exit().is_some();
        if finished {
            count += 1;
            bytes += weight;
        }
        // The newest finished one is kept whatever its size: somebody is about to ask for it.
        let over = count > FINISHED_MAX || (bytes > FINISHED_BYTES_MAX && count > 1);
        if !finished || followed || !over {
            keep.push_front(session);
        }
    }
    *sessions = keep;
}

/// A request with the image's defaults in it.
struct Prepared {
    args: Vec<String>,
    env: BTreeMap<String, String>,
    cwd: String,
    user: users::User,
    stdin: bool,
    timeout: Option<Duration>,
    ring_bytes: usize,
}

impl Prepared {
    fn new(config: &Config, request: Request) -> Result<Prepared, ApiError> {
        let mut args = request.args;
        if args.is_empty() {
            args = [config.entrypoint.clone(), config.cmd.clone()].concat();
        }
        if args.is_empty() {
            return Err(ApiError::bad_request(
                ErrorCode::BadRequest,
                "args is empty, and the image has neither an ENTRYPOINT nor a CMD",
            ));
        }
        let user = users::find(request.user.as_deref().or(config.user.as_deref()))?;
        let cwd = std::path::Path::new(config.workdir()).join(request.cwd.unwrap_or_default());
        if !cwd.is_dir() {
            let message = format!("{} is not a directory", cwd.display());
            return Err(ApiError::bad_request(ErrorCode::BadCwd, message));
        }
        Ok(Prepared {
            env: config.env_for(&user, request.env),
            cwd: cwd.to_string_lossy().into_owned(),
            args,
            user,
            stdin: request.stdin,
            timeout: request.timeout_ms.map(Duration::from_millis),
            ring_bytes: request
                .output_limit
                .unwrap_or(RING_BYTES_DEFAULT)
                .clamp(RING_BYTES_MIN, RING_BYTES_MAX),
        })
    }

    fn spawn(&self, reaper: &Reaper, path: &std::path::Path) -> io::Result<(Arc<Session>, Process)> {
        let (stdout, stdout_end) = sys::pipe()?;
        let (stderr, stderr_end) = sys::pipe()?;
        let (stdin, stdin_end) = match self.stdin {
            true => sys::pipe().map(|(theirs, ours)| (Stdio::from(theirs), Some(ours)))?,
            false => (Stdio::null(), None),
        };
        let (stdout, stderr) = (
            pipe::Receiver::from_owned_fd(stdout)?,
            pipe::Receiver::from_owned_fd(stderr)?,
        );
        let stdin_end = stdin_end.map(pipe::Sender::from_owned_fd).transpose()?;
        let program = Program {
            path,
            args: &self.args,
            env: &self.env,
            cwd: &self.cwd,
            user: &self.user,
        };
        let (pid, ended) = reaper.spawn(|| spawn::spawn(&program, stdin, stdout_end, stderr_end, &[]))?;
        let process = Process {
            ended,
            stdout,
            stderr,
            timeout: self.timeout,
        };
        Ok((Arc::new(self.session(Some(pid), stdin_end)), process))
    }

    fn session(&self, pid: Option<u32>, stdin: Option<pipe::Sender>) -> Session {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since_epoch.unwrap_or_default().as_millis() as u64;
        let id = format!("c-{:016x}", u64::from_le_bytes(sys::random()));
        Session::new(id, self.args.clone(), pid, now, stdin, self.ring_bytes)
    }

    /// The session of a command that could not be started, as a shell would end it.
    fn never_ran(&self, error: &io::Error) -> Result<Arc<Session>, ApiError> {
        let name = &self.args[0];
        let (exit_code, code, reason) = match error.kind() {
            io::ErrorKind::NotFound => (127, CommandError::CommandNotFound, "command not found"),
            io::ErrorKind::PermissionDenied => (126, CommandError::PermissionDenied, "permission denied"),
            _ => return Err(ApiError::io(format_args!("start {name}"), error)),
        };
        let session = self.session(None, None);
        session.push(ring::Stream::Stderr, format!("{name}: {reason}\n").as_bytes());
        session.finish(Exit {
            exit_code,
            error_code: Some(code),
            ..Exit::default()
        });
        Ok(Arc::new(session))
    }
}
