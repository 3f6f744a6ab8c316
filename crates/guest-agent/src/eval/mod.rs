//! Evaluation in warm interpreters: one process a language, whose state lasts from one evaluation to the next.

mod interpreter;
mod language;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::config::Config;
use crate::error::ApiError;
use crate::reaper::Reaper;
use crate::sys::Ended;
pub use interpreter::SEED_BYTES;
use interpreter::{Interpreter, Reseeder, Response};
use language::Language;

/// Between the interrupt at the timeout and the kill.
const INTERRUPT_GRACE: Duration = Duration::from_secs(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Of each of stdout and stderr; what is over it is read and dropped.
const OUTPUT_BYTES_MAX: usize = 1024 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    language: Option<String>,
    code: String,
    timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRequest {
    language: String,
}

#[derive(Default, Serialize)]
pub struct Outcome {
    result: Option<String>,
    error: Option<String>,
    exit_code: i32,
    stdout: String,
    stderr: String,
    /// More was printed than is given here.
    truncated: bool,
    timed_out: bool,
    /// The interpreter ended: the next evaluation has a fresh one.
    state_lost: bool,
}

/// The interpreter of one language, while there is one.
#[derive(Default)]
struct Slot {
    interpreter: tokio::sync::Mutex<Option<Interpreter>>,
    /// Beside the lock above, which an evaluation holds as long as it runs.
    reseeder: Mutex<Option<Arc<Reseeder>>>,
    /// Tells a running evaluation to end, with its interpreter.
    stop: Notify,
}

#[derive(Default)]
pub struct Interpreters {
    slots: Mutex<HashMap<&'static str, Arc<Slot>>>,
}

impl Interpreters {
    /// Makes sure that the language's interpreter is warm.
    pub async fn start(self: Arc<Self>, reaper: Reaper, config: Config, request: StartRequest) -> Result<(), ApiError> {
        let language = find(&request.language)?;
        let slot = self.slot(language);
        warm(&slot, language, &reaper, &config).await.map(drop)
    }

    /// Ends the language's interpreter where there is one, also in the middle of an evaluation that nobody waits for any more.
    pub fn stop(&self, language: &str) -> Result<(), ApiError> {
        let slot = self.slot(find(language)?);
        match slot.interpreter.try_lock() {
            Ok(mut held) => {
                slot.reseeder.lock().expect("no holder panics").take();
                if let Some(mut interpreter) = held.take() {
                    interpreter.process.kill();
                }
            }
            Err(_) => slot.stop.notify_waiters(),
        }
        Ok(())
    }

    pub async fn eval(self: Arc<Self>, reaper: Reaper, config: Config, request: Request) -> Result<Outcome, ApiError> {
        let language = find(request.language.as_deref().unwrap_or(language::DEFAULT))?;
        let slot = self.slot(language);
        let mut held = warm(&slot, language, &reaper, &config).await?;
        let interpreter = held.as_mut().expect("warm gives one");
        let limit = request.timeout_ms.map(Duration::from_millis);
        let outcome = evaluate(interpreter, language, &request.code, limit, &slot.stop).await;
        if outcome.state_lost {
            slot.reseeder.lock().expect("no holder panics").take();
            held.take();
        }
        Ok(outcome)
    }

    /// Gives every warm interpreter a new seed, whatever it is doing. Names those that have confirmed it.
    pub async fn reseed(&self, mut seed: impl FnMut() -> [u8; SEED_BYTES]) -> Vec<&'static str> {
        let warm: Vec<_> = {
            let slots = self.slots.lock().expect("no holder panics");
            let reseeder = |slot: &Slot| slot.reseeder.lock().expect("no holder panics").clone();
            slots
                .iter()
                .filter_map(|(name, slot)| Some((*name, reseeder(slot)?)))
                .collect()
        };
        let mut confirmed = Vec::new();
        for (name, reseeder) in warm {
            if reseeder.reseed(&seed()).await {
                confirmed.push(name);
            }
        }
        confirmed
    }

    fn slot(&self, language: &'static Language) -> Arc<Slot> {
        let mut slots = self.slots.lock().expect("no holder panics");
        slots.entry(language.name).or_default().clone()
    }
}

fn find(name: &str) -> Result<&'static Language, ApiError> {
    language::find(name)
        .ok_or_else(|| ApiError::bad_request("unknown_language", format!("{name} cannot be evaluated here")))
}

async fn warm<'a>(
    slot: &'a Slot,
    language: &Language,
    reaper: &Reaper,
    config: &Config,
) -> Result<tokio::sync::MutexGuard<'a, Option<Interpreter>>, ApiError> {
    let mut held = slot.interpreter.lock().await;
    // One that ended between two evaluations has left nothing to answer for.
    if held.as_mut().is_some_and(Interpreter::has_ended) {
        held.take();
    }
    if held.is_none() {
        let interpreter = Interpreter::start(language, reaper, config).await?;
        let reseeder = interpreter.reseeder.clone();
        *slot.reseeder.lock().expect("no holder panics") = Some(reseeder);
        *held = Some(interpreter);
    }
    Ok(held)
}

async fn evaluate(
    interpreter: &mut Interpreter,
    language: &Language,
    code: &str,
    limit: Option<Duration>,
    stop: &Notify,
) -> Outcome {
    let mut stdout = Capture::default();
    let mut stderr = Capture::default();
    let mut deadline = Instant::now() + limit.unwrap_or(TIMEOUT_MAX).min(TIMEOUT_MAX);
    let mut timed_out = false;
    let mut response = None;
    let exchange = interpreter.wire.exchange(serde_json::json!({ "code": code }));
    let mut exchange = std::pin::pin!(exchange);
    let mut stopped = std::pin::pin!(stop.notified());
    loop {
        tokio::select! {
            answer = &mut exchange => {
                response = answer.unwrap_or(None);
                break;
            }
            () = stdout.fill(&interpreter.stdout), if !stdout.ended => {}
            () = stderr.fill(&interpreter.stderr), if !stderr.ended => {}
            () = &mut stopped => break,
            () = sleep_until(deadline) => {
                if timed_out {
                    break;
                }
                timed_out = true;
                deadline = Instant::now() + INTERRUPT_GRACE;
                interpreter.process.interrupt();
            }
        }
    }
    let ended = match response {
        Some(_) => None,
        None => {
            interpreter.process.kill();
            interpreter.process.end().await
        }
    };
    stdout.drain(&interpreter.stdout);
    stderr.drain(&interpreter.stderr);
    Outcome {
        truncated: stdout.truncated || stderr.truncated,
        stdout: stdout.text(),
        stderr: stderr.text(),
        ..outcome(response, ended, timed_out.then_some(limit).flatten(), language)
    }
}

fn outcome(response: Option<Response>, ended: Option<Ended>, limit: Option<Duration>, language: &Language) -> Outcome {
    let late = limit.map(|limit| format!("timed out after {} ms", limit.as_millis()));
    let timed_out = late.is_some();
    match response {
        // It may have been done just before the interrupt reached it: then that is its outcome.
        Some(Response {
            result,
            error: None,
            exit_code,
        }) => Outcome {
            result,
            exit_code,
            ..Outcome::default()
        },
        Some(Response { error, exit_code, .. }) => Outcome {
            error: match (late, error) {
                (Some(late), Some(error)) => Some(format!("{late}; interrupted, state kept\n{error}")),
                (_, error) => error,
            },
            exit_code,
            timed_out,
            ..Outcome::default()
        },
        None => {
            let name = language.name;
            let how = match ended {
                Some(Ended::Exited(code)) => format!("exited with code {code}"),
                Some(Ended::Signalled(signal)) => format!("was ended by signal {signal}"),
                None => "stopped responding".to_owned(),
            };
            let error = match late {
                Some(late) => format!("{late}; {name} did not heed the interrupt and was ended: its state is lost"),
                None => format!("{name} {how} during the evaluation: its state is lost"),
            };
            Outcome {
                error: Some(error),
                exit_code: 1,
                timed_out,
                state_lost: true,
                ..Outcome::default()
            }
        }
    }
}

/// What is printed, up to a limit.
#[derive(Default)]
struct Capture {
    bytes: Vec<u8>,
    truncated: bool,
    ended: bool,
}

impl Capture {
    /// Waits for output and takes in what there is.
    async fn fill(&mut self, pipe: &pipe::Receiver) {
        match pipe.readable().await {
            Ok(()) => self.drain(pipe),
            Err(_) => self.ended = true,
        }
    }

    /// Takes in what there is now, up to a pipe's worth: one who prints without end must not keep the others waiting.
    fn drain(&mut self, pipe: &pipe::Receiver) {
        let mut buffer = [0; 16 * 1024];
        for _ in 0..64 {
            match pipe.try_read(&mut buffer) {
                Ok(0) => {
                    self.ended = true;
                    return;
                }
                Ok(count) => {
                    let room = OUTPUT_BYTES_MAX - self.bytes.len();
                    self.truncated |= count > room;
                    self.bytes.extend_from_slice(&buffer[..count.min(room)]);
                }
                Err(_) => return,
            }
        }
    }

    fn text(self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}
