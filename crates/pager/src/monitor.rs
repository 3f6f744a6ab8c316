//! The parts of QEMU's machine protocol (QMP) that the pager needs.

use crate::attachment::Attachment;
use crate::control::Control;
use crate::error::{PagerError, Result, Step};
use crate::socket;
use forkd_layers::Stack;
use forkd_linux_sys::fds;
use forkd_protocol::{Announce, FaultCode};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The descriptor set in which QEMU keeps the device state's memfd.
const FDSET: u32 = 7;
const SAVE: &str = "xen-save-devices-state";
/// The longest reply, in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;

/// A connection to a VMM that only this process uses.
#[derive(Debug)]
pub struct Monitor {
    socket: UnixStream,
    replies: BufReader<UnixStream>,
    /// Deadline for replies, whatever arrives meanwhile: a malicious VMM must not hold up a branch forever.
    until: Instant,
    /// Time that was allowed when the deadline was set, for messages.
    allowed: Duration,
    /// Id of the last command. A late reply to an abandoned command is skipped.
    last_id: u64,
    /// Ids of commands without a reply so far, oldest first.
    pending: VecDeque<u64>,
}

impl Monitor {
    pub fn connect(path: &str, patience: Duration) -> Result<Monitor> {
        let until = Instant::now() + patience;
        let socket = socket::connect(path, until)?;
        Monitor::over(socket, until.saturating_duration_since(Instant::now()))
    }

    fn over(socket: UnixStream, patience: Duration) -> Result<Monitor> {
        let replies = BufReader::new(socket.try_clone().step(|| "duplicating a socket".into())?);
        let mut monitor = Monitor {
            socket,
            replies,
            until: Instant::now() + patience,
            allowed: patience,
            last_id: 0,
            pending: VecDeque::new(),
        };
        monitor.line()?;
        monitor.call("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Waits until a VM that is being loaded runs. No command may be without its reply.
    pub fn wait_until_running(&mut self) -> Result<()> {
        while self.line()?.get("event").and_then(Value::as_str) != Some("RESUME") {}
        Ok(())
    }

    pub fn is_running(&mut self) -> Result<bool> {
        let status = self.call("query-status", json!({}))?;
        Ok(status.get("running").and_then(Value::as_bool) == Some(true))
    }

    /// Runs a command and returns its result.
    pub fn call(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.send(command, arguments)?;
        self.reply(command)
    }

    /// Sends a command without waiting. Call `reply` for each, in order.
    pub fn send(&mut self, command: &str, arguments: Value) -> Result<()> {
        self.send_with_fds(command, arguments, &[])
    }

    /// Sends a command with descriptors attached.
    pub fn send_with_fds(&mut self, command: &str, arguments: Value, attached: &[BorrowedFd<'_>]) -> Result<()> {
        self.last_id += 1;
        let mut text = json!({ "execute": command, "arguments": arguments, "id": self.last_id }).to_string();
        text.push('\n');
        let left = self.left()?;
        let sent = self.socket.set_write_timeout(Some(left)).and_then(|()| {
            if attached.is_empty() {
                return self.socket.write_all(text.as_bytes());
            }
            fds::send_with_fds(&self.socket, text.as_bytes(), attached)
        });
        sent.map_err(|error| PagerError::gone(format!("sending {command} to the VMM: {error}")))?;
        self.pending.push_back(self.last_id);
        Ok(())
    }

    /// The result of the oldest command without a reply. Skips events.
    pub fn reply(&mut self, command: &str) -> Result<Value> {
        let id = self.pending.pop_front().expect("a reply is awaited for each command");
        loop {
            let mut message = self.line()?;
            if message.get("id").and_then(Value::as_u64) != Some(id) {
                continue;
            }
            if let Some(error) = message.get("error") {
                let text = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
                return Err(PagerError::new(
                    FaultCode::Io,
                    format!("the VMM refused {command}: {text}"),
                ));
            }
            if let Some(result) = message.get_mut("return") {
                return Ok(result.take());
            }
        }
    }

    /// Time left. Never zero, which would mean no limit.
    fn left(&self) -> Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(self.late()) } else { Ok(left) }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = Vec::new();
        loop {
            let left = self.left()?;
            self.socket
                .set_read_timeout(Some(left))
                .step(|| "setting a timeout".into())?;
            let available = match self.replies.fill_buf() {
                Ok([]) => return Err(PagerError::gone("the VMM closed its monitor")),
                Ok(available) => available,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(self.late()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(PagerError::gone(format!("reading from the VMM's monitor: {error}"))),
            };
            let end = available.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(available.len(), |at| at + 1);
            line.extend_from_slice(&available[..taken]);
            self.replies.consume(taken);
            if end.is_some() {
                return serde_json::from_slice(&line)
                    .map_err(|error| PagerError::gone(format!("the VMM's monitor is not understood: {error}")));
            }
            if line.len() > LINE_BYTES_MAX {
                return Err(PagerError::gone("the VMM's monitor sends a line without end"));
            }
        }
    }

    fn late(&self) -> PagerError {
        let seconds = self.allowed.as_secs_f32();
        PagerError::gone(format!("the VMM's monitor did not answer within {seconds} s"))
    }
}

impl Control for Monitor {
    fn allow(&mut self, time: Duration) {
        (self.until, self.allowed) = (Instant::now() + time, time);
        // Replies to abandoned commands are not awaited.
        self.pending.clear();
    }

    fn stop(&mut self) -> Result<()> {
        self.call("stop", json!({})).map(drop)
    }

    fn is_stopped(&mut self) -> Result<bool> {
        let status = self.call("query-status", json!({}))?;
        Ok(status.get("status").and_then(Value::as_str) == Some("paused"))
    }

    fn go_on(&mut self) -> Result<()> {
        self.call("cont", json!({})).map(drop)
    }

    /// Passes the VMM a descriptor, so that no path and no permission is needed.
    fn save_to(&mut self, file: &File) -> Result<()> {
        // QEMU accepts a descriptor only if it is open as QEMU would open the file itself: for writing only.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let write_only = OpenOptions::new()
            .write(true)
            .open(path)
            .step(|| "opening a memfd for writing".into())?;
        // An earlier attempt may have failed before it removed its descriptor.
        let _ = self.forget_file();
        self.send_with_fds("add-fd", json!({ "fdset-id": FDSET }), &[write_only.as_fd()])?;
        self.reply("add-fd").map(drop)
    }

    fn stop_and_save(&mut self, quiet: bool) -> Result<()> {
        // Not `live`: for a stopped VM, that would also release its disks until it runs again, and a second save before
        // then (of a paused VM) would end the VMM. The output is the same.
        let save = json!({ "filename": format!("/dev/fdset/{FDSET}"), "live": false });
        self.send("stop", json!({}))?;
        if quiet {
            // Send this with the stop, so that the VMM proceeds from one to the other without waiting for us.
            self.send(SAVE, save.clone())?;
        }
        self.reply("stop")?;
        if !quiet {
            // Each reply means a turn of the main loop. After two the VMM has moved everything it could for a stopped VM.
            for _ in 0..2 {
                self.call("query-status", json!({}))?;
            }
            self.send(SAVE, save)?;
        }
        Ok(())
    }

    fn saved(&mut self) -> Result<()> {
        self.reply(SAVE).map(drop)
    }

    fn forget_file(&mut self) -> Result<()> {
        self.call("remove-fd", json!({ "fdset-id": FDSET })).map(drop)
    }

    fn saves_without_writing(&self) -> bool {
        true
    }

    /// Returns `None`: QEMU's shim calls by itself.
    fn ask_for_memory(&mut self, _: &Announce, _: &Arc<Stack>) -> Result<Option<Attachment>> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    const SHORT: Duration = Duration::from_millis(100);

    /// A monitor that greets, and then sends `noise` as long as the peer reads.
    fn noisy(noise: &'static [u8]) -> Result<Monitor> {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        std::thread::spawn(move || {
            let greeting = b"{\"QMP\": {}}\n{\"return\": {}, \"id\": 1}\n";
            let mut sent = theirs.write_all(greeting);
            while sent.is_ok() && !noise.is_empty() {
                sent = theirs.write_all(noise);
                std::thread::sleep(Duration::from_millis(1));
            }
            // Keep the socket open until the other side has closed.
            let _ = std::io::Read::read_to_end(&mut theirs, &mut Vec::new());
        });
        Monitor::over(ours, Duration::from_secs(10))
    }

    fn failure(noise: &'static [u8]) -> String {
        let mut monitor = noisy(noise).expect("it greets");
        monitor.allow(SHORT);
        let error = monitor.call("stop", json!({})).expect_err("no reply");
        assert_eq!(error.code, FaultCode::VmGone);
        error.message
    }

    #[test]
    fn one_that_says_all_but_the_reply_is_given_up() {
        assert!(failure(b"{\"event\": \"NICE\"}\n").contains("0.1 s"));
        assert!(failure(b"x").contains("0.1 s"));
        assert!(failure(b"").contains("0.1 s"));
    }

    #[test]
    fn one_that_talks_nonsense_or_without_end_is_given_up() {
        assert!(failure(b"nonsense\n").contains("not understood"));
        let mut monitor = noisy(&[b'x'; 1 << 16]).expect("it greets");
        monitor.allow(Duration::from_secs(60));
        let error = monitor.call("stop", json!({})).expect_err("no reply");
        assert!(error.message.contains("without end"), "{}", error.message);
    }

    /// A monitor that answers each command after `pause`, in one loop.
    fn slow(pause: Duration) -> Result<Monitor> {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        std::thread::spawn(move || {
            let mut out = theirs.try_clone().expect("a duplicate");
            let _ = out.write_all(b"{\"QMP\": {}}\n");
            for line in BufReader::new(theirs).lines().map_while(io::Result::ok) {
                let command: Value = serde_json::from_str(&line).expect("a command");
                if command["execute"] != "qmp_capabilities" {
                    std::thread::sleep(pause);
                }
                let reply = json!({ "return": { "was": command["execute"] }, "id": command["id"] });
                if writeln!(out, "{reply}").is_err() {
                    return;
                }
            }
        });
        Monitor::over(ours, Duration::from_secs(10))
    }

    #[test]
    fn the_time_is_for_all_commands_together() {
        let mut monitor = slow(Duration::from_millis(80)).expect("it greets");
        monitor.allow(Duration::from_millis(200));
        let outcomes: Vec<_> = (0..10).map(|_| monitor.call("query-status", json!({}))).collect();
        let answered = outcomes.iter().take_while(|outcome| outcome.is_ok()).count();
        assert!(answered <= 2, "{answered} commands of 80 ms in 200 ms");
        assert!(outcomes[answered].as_ref().expect_err("late").message.contains("0.2 s"));
    }

    #[test]
    fn a_reply_that_comes_late_is_not_taken_for_that_of_the_next_command() {
        let mut monitor = slow(Duration::from_millis(150)).expect("it greets");
        monitor.allow(Duration::from_millis(50));
        monitor.call("stop", json!({})).expect_err("late");
        monitor.allow(Duration::from_secs(10));
        let reply = monitor.call("cont", json!({})).expect("in time");
        assert_eq!(reply["was"], "cont");
    }
}
