//! Evaluation in warm interpreters: one process a language, whose state lasts from one evaluation to the next.

mod interpreter;
mod language;
mod output;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use ts_rs::TS;

use crate::config::Config;
use crate::error::{ApiError, ErrorCode};
use crate::reaper::Reaper;
use crate::sys::Ended;
pub use interpreter::SEED_BYTES;
use interpreter::{Interpreter, Reseeder, Response};
use language::Language;

/// Time between the interrupt at the timeout and the kill.
const INTERRUPT_GRACE: Duration = Duration::from_secs(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Time for a killed interpreter to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Deserialize, TS)]
#[serde(deny_unknown_fields)]
#[ts(export_to = "agent-wire.ts", rename = "EvalRequest", optional_fields)]
pub struct Request {
    language: Option<String>,
    code: String,
    timeout_ms: Option<u64>,
}

#[derive(Deserialize, TS)]
#[serde(deny_unknown_fields)]
#[ts(export_to = "agent-wire.ts", rename = "InterpreterRequest")]
pub struct StartRequest {
    language: String,
}

#[derive(Default, Serialize, TS)]
#[ts(export_to = "agent-wire.ts", rename = "Evaluation")]
pub struct Outcome {
    result: Option<String>,
    /// The reason of a failure, in one line.
    error: Option<String>,
    traceback: Option<String>,
    exit_code: i32,
    stdout: String,
    stderr: String,
    /// More was printed, or the result was longer, than is given here.
    truncated: bool,
    stdout_dropped_bytes: u64,
    stderr_dropped_bytes: u64,
    timed_out: bool,
    /// The interpreter ended: the next evaluation has a fresh one.
    state_lost: bool,
}

/// The interpreter of one language, while there is one.
#[derive(Default)]
struct Slot {
    interpreter: Arc<tokio::sync::Mutex<Option<Interpreter>>>,
    /// Separate from the lock above, which an evaluation holds as long as it runs.
    reseeder: Mutex<Option<Arc<Reseeder>>>,
    /// Tells a running evaluation to end, with its interpreter.
    stop: Notify,
}

#[derive(Default)]
pub struct Interpreters {
    slots: Mutex<HashMap<&'static str, Arc<Slot>>>,
}

/// The turn of one request at the interpreter of its language. The others wait until it is dropped.
pub struct Turn {
    language: &'static Language,
    slot: Arc<Slot>,
    held: OwnedMutexGuard<Option<Interpreter>>,
    /// The request's time, and what the wait has left of it. The start of an interpreter does not count.
    limit: Option<Duration>,
    left: Duration,
}

impl Interpreters {
    /// Waits for the turn of a request to evaluate. A caller that gives up meanwhile leaves nothing behind.
    pub async fn turn_to_evaluate(&self, request: &Request) -> Result<Turn, ApiError> {
        let language = request.language.as_deref().unwrap_or(language::DEFAULT);
        self.turn(language, request.timeout_ms.map(Duration::from_millis)).await
    }

    /// Waits for the turn of a request to warm an interpreter.
    pub async fn turn_to_start(&self, request: &StartRequest) -> Result<Turn, ApiError> {
        self.turn(&request.language, None).await
    }

    async fn turn(&self, language: &str, limit: Option<Duration>) -> Result<Turn, ApiError> {
        let language = find(language)?;
        let slot = self.slot(language);
        let deadline = Instant::now() + limit.unwrap_or(TIMEOUT_MAX).min(TIMEOUT_MAX);
        let waiting = timeout_at(deadline, slot.interpreter.clone().lock_owned());
        let held = waiting.await.map_err(|_| {
            let message = format!(
                "{} was busy with another evaluation for {} ms: this one was not begun",
                language.name,
                limit.unwrap_or(TIMEOUT_MAX).as_millis()
            );
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::InterpreterBusy, message)
        })?;
        Ok(Turn {
            language,
            slot,
            held,
            limit,
            left: deadline.saturating_duration_since(Instant::now()),
        })
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
        .ok_or_else(|| ApiError::bad_request(ErrorCode::UnknownLanguage, format!("{name} cannot be evaluated here")))
}

impl Turn {
    /// Makes sure that the interpreter is warm.
    pub async fn start(mut self, reaper: Reaper, config: Config) -> Result<(), ApiError> {
        if self.ended().is_some() {
            self.lose();
        }
        self.warm(&reaper, &config).await.map(drop)
    }

    pub async fn evaluate(mut self, reaper: Reaper, config: Config, request: Request) -> Result<Outcome, ApiError> {
        let outcome = match self.ended() {
            // The code may rely on a state that is gone.
            Some(ended) => Outcome::of_end(self.language, Some(ended), "before"),
            None => {
                self.warm(&reaper, &config).await?;
                self.carry_out(&request.code).await
            }
        };
        if outcome.state_lost {
            self.lose();
        }
        Ok(outcome)
    }

    /// How the interpreter ended since its last evaluation, if it has.
    fn ended(&mut self) -> Option<Ended> {
        self.held.as_mut()?.process.ended()
    }

    fn lose(&mut self) {
        self.slot.reseeder.lock().expect("no holder panics").take();
        self.held.take();
    }

    async fn warm(&mut self, reaper: &Reaper, config: &Config) -> Result<(), ApiError> {
        if self.held.is_none() {
            let interpreter = Interpreter::start(self.language, reaper, config).await?;
            let reseeder = interpreter.reseeder.clone();
            *self.slot.reseeder.lock().expect("no holder panics") = Some(reseeder);
            *self.held = Some(interpreter);
        }
        Ok(())
    }

    async fn carry_out(&mut self, code: &str) -> Outcome {
        let Interpreter {
            process,
            stdout,
            stderr,
            wire,
            ..
        } = self.held.as_mut().expect("it is warm");
        let (stdout, stderr) = (stdout.clone(), stderr.clone());
        stdout.begin();
        stderr.begin();
        let mut deadline = Instant::now() + self.left;
        let mut timed_out = false;
        let mut response = None;
        let mut exchange = std::pin::pin!(wire.exchange(serde_json::json!({ "code": code })));
        let mut stopped = std::pin::pin!(self.slot.stop.notified());
        loop {
            tokio::select! {
                biased;
                answer = &mut exchange => {
                    response = answer.unwrap_or(None);
                    break;
                }
                _ = process.wait() => break,
                () = &mut stopped => break,
                () = sleep_until(deadline) => {
                    if timed_out {
                        break;
                    }
                    timed_out = true;
                    deadline = Instant::now() + INTERRUPT_GRACE;
                    process.interrupt();
                }
            }
        }
        let mut ended = None;
        if response.is_none() {
            process.kill();
            ended = timeout(KILL_TIMEOUT, process.wait()).await.ok().flatten();
        }
        let (stdout, stderr) = (stdout.take(), stderr.take());
        let is_cut = response.as_ref().is_some_and(|response| response.cut);
        let late = timed_out.then_some(self.limit).flatten();
        let late = late.map(|limit| format!("timed out after {} ms", limit.as_millis()));
        Outcome {
            truncated: is_cut || stdout.dropped_bytes + stderr.dropped_bytes > 0,
            stdout_dropped_bytes: stdout.dropped_bytes,
            stderr_dropped_bytes: stderr.dropped_bytes,
            stdout: stdout.text(),
            stderr: stderr.text(),
            ..match response {
                Some(response) => Outcome::of_response(response, late),
                None => Outcome::of_silence(self.language, ended, late),
            }
        }
    }
}

impl Outcome {
    fn of_response(response: Response, late: Option<String>) -> Outcome {
        // The evaluation may have finished just before the interrupt arrived. Then its result counts.
        let timed_out = late.is_some() && response.error.is_some();
        Outcome {
            result: response.result,
            error: response.error.map(|error| match late {
                Some(late) => format!("{late}; interrupted, state kept: {error}"),
                None => error,
            }),
            traceback: response.traceback,
            exit_code: response.exit_code,
            timed_out,
            ..Outcome::default()
        }
    }

    /// The interpreter has not responded.
    fn of_silence(language: &Language, ended: Option<Ended>, late: Option<String>) -> Outcome {
        let Some(late) = late else {
            return Outcome::of_end(language, ended, "during");
        };
        let name = language.name;
        let error = format!("{late}; {name} did not heed the interrupt and was ended: its state is lost");
        Outcome {
            timed_out: true,
            ..Outcome::state_lost(error)
        }
    }

    fn of_end(language: &Language, ended: Option<Ended>, when: &str) -> Outcome {
        let name = language.name;
        let how = match ended {
            Some(Ended::Exited(code)) => format!("exited with code {code}"),
            Some(Ended::Signalled(signal)) => format!("was ended by signal {signal}"),
            None => "stopped responding".to_owned(),
        };
        Outcome::state_lost(format!("{name} {how} {when} the evaluation: its state is lost"))
    }

    fn state_lost(error: String) -> Outcome {
        Outcome {
            error: Some(error),
            exit_code: 1,
            state_lost: true,
            ..Outcome::default()
        }
    }
}
