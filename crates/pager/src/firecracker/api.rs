//! The parts of Firecracker's API that a pause window needs: HTTP over a unix socket, one request at a time.

use super::memory::{self, HandoverSocket};
use crate::attachment::Attachment;
use crate::control::Control;
use crate::error::{PagerError, Result, Step};
use crate::socket;
use forkd_layers::Stack;
use forkd_protocol::{Announce, FaultCode};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
const HEADERS_MAX: usize = 32;
/// Memory must not be written, whatever the build does with the field that other kinds of snapshot require.
const NO_MEMORY_FILE: &str = "/dev/null";

/// A connection to the API of one VM.
#[derive(Debug)]
pub struct Api {
    path: String,
    /// `None` after a request that has failed half-way: later bytes on such a connection belong to no answer.
    socket: Option<UnixStream>,
    /// Deadline for answers, and the time that was allowed when it was set.
    until: Instant,
    allowed: Duration,
    /// Path of the next device state.
    state_path: String,
    /// True if the VM was paused when last asked.
    was_stopped: bool,
}

/// The request that saves device state.
const SAVE: (&str, &str) = ("PUT", "/snapshot/create");

impl Api {
    pub fn connect(path: &str, patience: Duration) -> Result<Api> {
        let until = Instant::now() + patience;
        Ok(Api {
            path: path.into(),
            socket: Some(socket::connect(path, until)?),
            until,
            allowed: patience,
            state_path: String::new(),
            was_stopped: false,
        })
    }

    /// Sends a request, and returns the answer.
    pub fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        self.send(method, path, body)?;
        self.answer(method, path)
    }

    /// Reconnects. The VMM has listened before, so if it does not listen now it has ended.
    fn connect_again(&self) -> Result<UnixStream> {
        socket::connect_once(&self.path)
            .map_err(|error| PagerError::gone(format!("connecting to {}: {error}", self.path)))
    }

    fn set_state(&mut self, state: &str) -> Result<()> {
        self.ask("PATCH", "/vm", Some(&json!({ "state": state }))).map(drop)
    }

    fn send(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<()> {
        let text = body.map_or_else(String::new, Value::to_string);
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
        let request = format!("{head}Content-Length: {}\r\n\r\n{text}", text.len());
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => self.connect_again()?,
        };
        let sent = socket
            .set_write_timeout(Some(self.left(method, path)?))
            .and_then(|()| socket.write_all(request.as_bytes()));
        sent.map_err(|error| PagerError::gone(format!("sending {method} {path} to the VMM: {error}")))?;
        self.socket = Some(socket);
        Ok(())
    }

    /// The answer to the last request.
    fn answer(&mut self, method: &str, path: &str) -> Result<Value> {
        let mut socket = self.socket.take().expect("a request has been sent");
        let (status, body) = self.receive(&mut socket, method, path)?;
        self.socket = Some(socket);
        // An answer may have no body, or one that is not JSON.
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if (200..300).contains(&status) {
            return Ok(body);
        }
        let why = body["fault_message"].as_str().unwrap_or("no reason given");
        let message = format!("the VMM refused {method} {path}: {why}");
        Err(PagerError::new(FaultCode::Io, message))
    }

    /// Time left. Never zero, which would mean no limit.
    fn left(&self, method: &str, path: &str) -> Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(self.late(method, path))
        } else {
            Ok(left)
        }
    }

    fn late(&self, method: &str, path: &str) -> PagerError {
        let seconds = self.allowed.as_secs_f32();
        PagerError::gone(format!("the VMM did not answer {method} {path} within {seconds} s"))
    }

    fn receive(&self, socket: &mut UnixStream, method: &str, path: &str) -> Result<(u16, Vec<u8>)> {
        let mut received = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            if let Some(answer) = parse(&received)? {
                return Ok(answer);
            }
            if received.len() > ANSWER_BYTES_MAX {
                return Err(PagerError::gone(format!(
                    "the VMM's answer to {method} {path} has no end"
                )));
            }
            socket
                .set_read_timeout(Some(self.left(method, path)?))
                .step(|| "setting a timeout".into())?;
            match socket.read(&mut buffer) {
                Ok(0) => return Err(PagerError::gone(format!("the VMM hung up at {method} {path}"))),
                Ok(count) => received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(self.late(method, path)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(PagerError::gone(format!(
                        "reading the VMM's answer to {method} {path}: {error}"
                    )));
                }
            }
        }
    }
}

impl Control for Api {
    fn allow(&mut self, time: Duration) {
        (self.until, self.allowed) = (Instant::now() + time, time);
    }

    fn stop(&mut self) -> Result<()> {
        self.set_state("Paused")
    }

    fn is_stopped(&mut self) -> Result<bool> {
        self.was_stopped = self.ask("GET", "/", None)?["state"] == "Paused";
        Ok(self.was_stopped)
    }

    fn go_on(&mut self) -> Result<()> {
        self.set_state("Resumed")
    }

    fn save_to(&mut self, file: &File) -> Result<()> {
        self.state_path = memory::path_of(file);
        Ok(())
    }

    /// Stops the VM and saves. After the answer to a pause, Firecracker serves no device until the VM resumes. Requests that the
    /// guest made of a device just before are served then, or by a child's Firecracker, which checks each device's queues first.
    fn stop_and_save(&mut self, _quiet: bool) -> Result<()> {
        if !self.was_stopped {
            self.stop()?;
        }
        let save = json!({
            "snapshot_type": "VmstateOnly",
            "snapshot_path": self.state_path,
            "mem_file_path": NO_MEMORY_FILE,
        });
        self.send(SAVE.0, SAVE.1, Some(&save))
    }

    fn saved(&mut self) -> Result<()> {
        self.answer(SAVE.0, SAVE.1).map(drop)
    }

    fn forget_file(&mut self) -> Result<()> {
        Ok(())
    }

    /// False, since Firecracker tells the guest, in a queue in guest memory, that its connections are reset.
    fn saves_without_writing(&self) -> bool {
        false
    }

    fn ask_for_memory(&mut self, announced: &Announce, stack: &Arc<Stack>) -> Result<Option<Attachment>> {
        let handover = HandoverSocket::open(announced)?;
        self.ask("PUT", "/uffd/wp", Some(&json!({ "socket": memory::SOCKET })))?;
        handover.receive(announced, stack).map(Some)
    }
}

/// The status and the body of an answer. `None` while it is incomplete.
fn parse(bytes: &[u8]) -> Result<Option<(u16, Vec<u8>)>> {
    let bad = |why: String| PagerError::gone(format!("the VMM's answer is not understood: {why}"));
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|error| bad(error.to_string()))?;
    let httparse::Status::Complete(head) = parsed else {
        return Ok(None);
    };
    let status = response.code.unwrap_or_default();
    // The bytes after an interim answer, or a body in pieces, would be taken for the answer to the next request.
    if status < 200 {
        return Err(bad(format!("status {status} is no answer")));
    }
    let header = |name: &str| {
        response
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
    };
    if header("transfer-encoding").is_some() {
        return Err(bad("its body comes in pieces".into()));
    }
    let length = header("content-length");
    let length = length.map_or(Ok(0), |header| {
        let number = std::str::from_utf8(header.value)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        number
            .filter(|length| *length <= ANSWER_BYTES_MAX)
            .ok_or_else(|| bad("its length is none".into()))
    })?;
    if bytes.len() > head + length {
        return Err(bad("there is more than was asked for".into()));
    }
    Ok(bytes.get(head..head + length).map(|body| (status, body.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outcome of a request that is answered with `answer`.
    fn asked(answer: &'static [u8]) -> Result<Value> {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        std::thread::spawn(move || {
            let _ = theirs.read(&mut [0; 4096]);
            for piece in answer.chunks(7) {
                theirs.write_all(piece).expect("somebody listens");
            }
            // Keep the socket open until the other side has closed.
            let _ = theirs.read_to_end(&mut Vec::new());
        });
        let mut api = Api {
            path: "/nowhere".into(),
            socket: Some(ours),
            until: Instant::now() + Duration::from_millis(200),
            allowed: Duration::from_millis(200),
            state_path: String::new(),
            was_stopped: false,
        };
        api.ask("GET", "/", None)
    }

    #[test]
    fn an_answer_in_pieces_is_put_together() {
        let answer =
            asked(b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 15\r\n\r\n{\"state\":\"Run\"}").expect("an answer");
        assert_eq!(answer["state"], "Run");
        assert!(asked(b"HTTP/1.1 204 No Content\r\n\r\n").is_ok());
    }

    #[test]
    fn a_refusal_is_told_in_the_vmms_words() {
        let error = asked(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 23\r\n\r\n{\"fault_message\":\"Hm.\"}")
            .expect_err("refused");
        assert_eq!(error.message, "the VMM refused GET /: Hm.");
    }

    #[test]
    fn one_that_says_too_little_too_much_or_nonsense_is_given_up() {
        for (answer, why) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"[..], "within 0.2 s"),
            (b"", "within 0.2 s"),
            (b"nonsense\r\n\r\n", "not understood"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", "not understood"),
            (b"HTTP/1.1 100 Continue\r\n\r\n", "status 100 is no answer"),
            (
                b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
                "more than was asked for",
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "comes in pieces",
            ),
        ] {
            let error = asked(answer).expect_err("no answer");
            assert_eq!(error.code, FaultCode::VmGone);
            assert!(error.message.contains(why), "{}", error.message);
        }
    }
}
