//! A warm interpreter process, and its protocol with the agent.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::language::Language;
use super::output::Output;
use crate::command::spawn::{self, Lookup, Program};
use crate::command::users::{self, User};
use crate::config::Config;
use crate::error::{ApiError, ErrorCode};
use crate::generation_page;
use crate::reaper::Reaper;
use crate::sys::{self, Ended};

/// The signal of `driver.py`.
const RESEED_SIGNAL: i32 = 63;
pub const SEED_BYTES: usize = 32;
/// A cold interpreter, on a slow emulated processor.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// An interpreter inside a long native call reseeds when it returns from it; that is not waited for.
const RESEED_TIMEOUT: Duration = Duration::from_millis(500);

#[derive(Deserialize)]
pub struct Response {
    pub result: Option<String>,
    pub error: Option<String>,
    pub traceback: Option<String>,
    pub exit_code: i32,
    /// The result or the error is longer than what is given of it.
    pub cut: bool,
}

pub struct Interpreter {
    pub process: Process,
    pub stdout: Arc<Output>,
    pub stderr: Arc<Output>,
    pub wire: Wire,
    pub reseeder: Arc<Reseeder>,
    /// Read the output until the interpreter is dropped.
    _pumps: JoinSet<()>,
}

pub struct Process {
    pid: u32,
    end: oneshot::Receiver<Ended>,
    ended: Option<Ended>,
}

/// Requests and responses, a JSON object a line.
pub struct Wire {
    requests: pipe::Sender,
    responses: BufReader<pipe::Receiver>,
}

/// The way past a running evaluation.
pub struct Reseeder {
    pid: u32,
    pipes: Mutex<(pipe::Sender, pipe::Receiver)>,
}

impl Interpreter {
    /// Starts the interpreter and waits until it takes requests.
    pub async fn start(language: &Language, reaper: &Reaper, config: &Config) -> Result<Interpreter, ApiError> {
        let user = users::find(config.user.as_deref())?;
        let mut interpreter = spawn_driver(language, reaper, config, &user)?;
        let ready = timeout(START_TIMEOUT, interpreter.wire.line()).await;
        if let Ok(Ok(Some(_))) = ready {
            return Ok(interpreter);
        }
        interpreter.process.kill();
        let why = match ready {
            Err(_) => "it was not ready in time",
            Ok(_) => "it ended at once",
        };
        let said = interpreter.stderr.take().text();
        Err(ApiError::new(
            hyper::StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::InterpreterFailed,
            format!("{} did not start: {why}. {said}", language.program),
        ))
    }
}

impl Process {
    /// Stops what is being evaluated, as Ctrl-C would: the interpreter and what it started, if it ends by that.
    pub fn interrupt(&mut self) {
        self.signal(libc::SIGINT);
    }

    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
    }

    fn signal(&mut self, signal: i32) {
        // Once it is reaped its pid may be another's.
        if self.ended().is_none() {
            let _ = sys::kill_group(self.pid, signal);
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<Ended> {
        if self.ended.is_none() {
            self.ended = self.end.try_recv().ok();
        }
        self.ended
    }

    /// Waits until it has ended, even where a child of it keeps its pipes open.
    pub async fn wait(&mut self) -> Option<Ended> {
        if self.ended.is_none() {
            self.ended = (&mut self.end).await.ok();
        }
        self.ended
    }
}

impl Wire {
    /// Sends a request and reads its response. `None` if the interpreter ended instead.
    pub async fn exchange(&mut self, request: serde_json::Value) -> io::Result<Option<Response>> {
        let line = format!("{request}\n");
        self.requests.write_all(line.as_bytes()).await?;
        match self.line().await? {
            Some(line) => Ok(Some(serde_json::from_slice(&line)?)),
            None => Ok(None),
        }
    }

    async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        self.responses.read_until(b'\n', &mut line).await?;
        Ok(line.ends_with(b"\n").then_some(line))
    }
}

impl Reseeder {
    /// `true` when the interpreter has said that its generators start from the seed now.
    pub async fn reseed(&self, seed: &[u8; SEED_BYTES]) -> bool {
        let mut pipes = self.pipes.lock().await;
        let (seeds, acks) = &mut *pipes;
        let exchange = async {
            seeds.write_all(seed).await?;
            sys::kill(self.pid, RESEED_SIGNAL)?;
            acks.read_u8().await
        };
        matches!(timeout(RESEED_TIMEOUT, exchange).await, Ok(Ok(1)))
    }
}

fn spawn_driver(language: &Language, reaper: &Reaper, config: &Config, user: &User) -> Result<Interpreter, ApiError> {
    let env = config.env_for(user, Default::default());
    let cwd = Some(config.workdir()).filter(|cwd| Path::new(cwd).is_dir());
    let cwd = cwd.unwrap_or("/");
    let search = env.get("PATH").map_or("", String::as_str);
    let Lookup::Found(path) = spawn::look_up(language.program, search, cwd) else {
        let message = format!("there is no {} in this sandbox", language.program);
        return Err(ApiError::not_found(ErrorCode::InterpreterNotFound, message));
    };
    let start = |args: &mut Vec<String>| {
        let (stdout, stdout_end) = sys::pipe()?;
        let (stderr, stderr_end) = sys::pipe()?;
        let (requests_end, requests) = sys::pipe()?;
        let (responses, responses_end) = sys::pipe()?;
        let (seeds_end, seeds) = sys::pipe()?;
        let (acks, acks_end) = sys::pipe()?;
        let inherit = [requests_end, responses_end, seeds_end, acks_end];
        args.extend(inherit.iter().map(|fd| fd.as_raw_fd().to_string()));
        args.push(generation_page::PATH.to_owned());
        let program = Program {
            path: &path,
            args,
            env: &env,
            cwd,
            user,
        };
        let spawn = || spawn::spawn(&program, Stdio::null(), stdout_end, stderr_end, &inherit);
        let (pid, end) = reaper.spawn(spawn)?;
        let seeds = pipe::Sender::from_owned_fd(seeds)?;
        let mut pumps = JoinSet::new();
        let mut pumped = |pipe| -> io::Result<Arc<Output>> {
            let output = Arc::new(Output::new(pipe::Receiver::from_owned_fd(pipe)?));
            let pump = output.clone();
            pumps.spawn(async move { pump.pump().await });
            Ok(output)
        };
        Ok(Interpreter {
            process: Process { pid, end, ended: None },
            stdout: pumped(stdout)?,
            stderr: pumped(stderr)?,
            wire: Wire {
                requests: pipe::Sender::from_owned_fd(requests)?,
                responses: BufReader::new(pipe::Receiver::from_owned_fd(responses)?),
            },
            reseeder: Arc::new(Reseeder {
                pid,
                pipes: Mutex::new((seeds, pipe::Receiver::from_owned_fd(acks)?)),
            }),
            _pumps: pumps,
        })
    };
    let mut args = vec![language.program.to_owned()];
    args.extend(language.args.iter().map(|arg| (*arg).to_owned()));
    start(&mut args).map_err(|error: io::Error| ApiError::io(format_args!("start {}", language.program), &error))
}
