//! Commands: starting them, and the table of those that run or have run.

pub mod pty;
pub mod ring;
mod run;
mod screen;
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
use pty::{Pty, Size};
use run::Process;
use session::{CommandError, Exit, Info, Session};
use spawn::{Lookup, Program};

const RING_BYTES_DEFAULT: usize = 1024 * 1024;
const RING_BYTES_MIN: usize = 4 * 1024;
const RING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Finished commands that are remembered, and how much of their output, all together.
const FINISHED_MAX: usize = 256;
const FINISHED_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Commands that run at the same time, and those of them that have a terminal.
const RUNNING_MAX: usize = 1024;
const PTYS_MAX: usize = 64;
const TERM_DEFAULT: &str = "xterm-256color";
const SHELL_DEFAULT: &str = "/bin/sh";

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
    /// Gives the command a terminal, which is its stdin, too.
    pty: Option<Size>,
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
        let running: Vec<_> = self.list().into_iter().filter(|info| info.running).collect();
        if running.len() >= RUNNING_MAX {
            return Err(too_many(format!("{RUNNING_MAX} commands run already")));
        }
        if prepared.pty.is_some() && running.iter().filter(|info| info.pty.is_some()).count() >= PTYS_MAX {
            return Err(too_many(format!("{PTYS_MAX} commands with a terminal run already")));
        }
        let terminal = prepared.open_terminal()?;
        let name = &prepared.args[0];
        let search = prepared.env.get("PATH").map_or(PATH_DEFAULT, String::as_str);
        let session = match spawn::look_up(name, search, &prepared.cwd) {
            Lookup::Found(path) => match prepared.spawn(reaper, &path, terminal) {
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

fn too_many(message: String) -> ApiError {
    let status = hyper::StatusCode::TOO_MANY_REQUESTS;
    ApiError::new(status, ErrorCode::TooManyCommands, message)
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

/// The shell of a user, as a login starts it.
fn login_shell(user: &users::User) -> Vec<String> {
    let shell = user
        .shell
        .as_deref()
        .filter(|shell| std::path::Path::new(shell).exists());
    vec![shell.unwrap_or(SHELL_DEFAULT).to_owned(), "-l".to_owned()]
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
    pty: Option<Size>,
}

impl Prepared {
    fn new(config: &Config, request: Request) -> Result<Prepared, ApiError> {
        let pty = request.pty.map(Size::check).transpose()?;
        let user = users::find(request.user.as_deref().or(config.user.as_deref()))?;
        let mut args = request.args;
        if args.is_empty() && pty.is_some() {
            args = login_shell(&user);
        }
        if args.is_empty() {
            args = [config.entrypoint.clone(), config.cmd.clone()].concat();
        }
        if args.is_empty() {
            return Err(ApiError::bad_request(
                ErrorCode::BadRequest,
                "args is empty, and the image has neither an ENTRYPOINT nor a CMD",
            ));
        }
        let cwd = std::path::Path::new(config.workdir()).join(request.cwd.unwrap_or_default());
        if !cwd.is_dir() {
            let message = format!("{} is not a directory", cwd.display());
            return Err(ApiError::bad_request(ErrorCode::BadCwd, message));
        }
        let mut env = config.env_for(&user, request.env);
        if pty.is_some() {
            env.entry("TERM".to_owned()).or_insert_with(|| TERM_DEFAULT.to_owned());
        }
        Ok(Prepared {
            env,
            cwd: cwd.to_string_lossy().into_owned(),
            args,
            user,
            stdin: request.stdin,
            timeout: request.timeout_ms.map(Duration::from_millis),
            ring_bytes: request
                .output_limit
                .unwrap_or(RING_BYTES_DEFAULT)
                .clamp(RING_BYTES_MIN, RING_BYTES_MAX),
            pty,
        })
    }

    fn open_terminal(&self) -> Result<Option<(pty::Opened, Size)>, ApiError> {
        let open = |size| Ok((Pty::open(size, self.user.uid)?, size));
        self.pty.map(open).transpose().map_err(|error: io::Error| {
            let status = hyper::StatusCode::INTERNAL_SERVER_ERROR;
            ApiError::new(status, ErrorCode::IoError, format!("open a terminal: {error}"))
        })
    }

    fn spawn(
        &self,
        reaper: &Reaper,
        path: &std::path::Path,
        terminal: Option<(pty::Opened, Size)>,
    ) -> io::Result<(Arc<Session>, Process)> {
        let program = Program {
            path,
            args: &self.args,
            env: &self.env,
            cwd: &self.cwd,
            user: &self.user,
        };
        if let Some((opened, size)) = terminal {
            let (stdout, stderr) = (opened.program.try_clone()?, opened.program.try_clone()?);
            let (pid, ended) = reaper.spawn(|| spawn::spawn(&program, opened.program.into(), stdout, stderr, &[]))?;
            let process = Process {
                ended,
                stdout: opened.output,
                stderr: None,
                timeout: self.timeout,
            };
            let session = self
                .session(Some(pid), Some(opened.input))
                .with_terminal(size, Some(opened.pty));
            return Ok((Arc::new(session), process));
        }
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
        let (pid, ended) = reaper.spawn(|| spawn::spawn(&program, stdin, stdout_end, stderr_end, &[]))?;
        let process = Process {
            ended,
            stdout,
            stderr: Some(stderr),
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
        let mut session = self.session(None, None);
        if let Some(size) = self.pty {
            session = session.with_terminal(size, None);
        }
        session.push(ring::Stream::Stderr, format!("{name}: {reason}\n").as_bytes());
        session.finish(Exit {
            exit_code,
            error_code: Some(code),
            ..Exit::default()
        });
        Ok(Arc::new(session))
    }
}
