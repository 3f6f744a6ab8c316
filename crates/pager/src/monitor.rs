//! QEMU's machine protocol, as far as it is needed.

use crate::control::Control;
use crate::error::{PagerError, Result, Step};
use crate::sandbox::{Attachment, Sandbox};
use forkd_linux_sys::fds;
use forkd_protocol::FaultCode;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A monitor that does not answer for this long is given up.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// A VMM may take this long to listen.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The set of descriptors that QEMU files the device state's memfd under.
const FDSET: u32 = 7;
const SAVE: &str = "xen-save-devices-state";
/// No reply is longer.
const LINE_BYTES_MAX: usize = 1 << 20;

/// A connection of this process' own to a VMM.
#[derive(Debug)]
pub struct Monitor {
    socket: UnixStream,
    replies: BufReader<UnixStream>,
    /// How long it may take to answer, whatever it says meanwhile: a VMM that means harm must not hold up a branch for ever.
    patience: Duration,
}

impl Monitor {
    pub fn connect(path: &str) -> Result<Monitor> {
        Monitor::over(connect(path)?, REPLY_TIMEOUT)
    }

    fn over(socket: UnixStream, patience: Duration) -> Result<Monitor> {
        for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
            set(&socket, Some(patience)).step(|| "setting a timeout".into())?;
        }
        let replies = BufReader::new(socket.try_clone().step(|| "duplicating a socket".into())?);
        let mut monitor = Monitor {
            socket,
            replies,
            patience,
        };
        let deadline = monitor.deadline();
        monitor.line(deadline)?;
        monitor.call("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }

    /// Waits until a VM runs that is being loaded. No command may be without its reply.
    pub fn wait_until_running(&mut self) -> Result<()> {
        let deadline = self.deadline();
        while self.line(deadline)?.get("event").and_then(Value::as_str) != Some("RESUME") {}
        Ok(())
    }

    /// Runs a command and returns its result.
    pub fn call(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.send(command, arguments)?;
        self.reply(command)
    }

    /// Sends a command without waiting; `reply` must be called for each, in order.
    pub fn send(&mut self, command: &str, arguments: Value) -> Result<()> {
        self.send_with_fds(command, arguments, &[])
    }

    /// Sends a command with descriptors attached.
    pub fn send_with_fds(&mut self, command: &str, arguments: Value, attached: &[BorrowedFd<'_>]) -> Result<()> {
        let mut text = json!({ "execute": command, "arguments": arguments }).to_string();
        text.push('\n');
        let sent = if attached.is_empty() {
            self.socket.write_all(text.as_bytes())
        } else {
            fds::send_with_fds(&self.socket, text.as_bytes(), attached)
        };
        sent.map_err(|error| gone(format!("sending {command} to the VMM: {error}")))
    }

    /// The result of the oldest command that has none yet. Events in between are passed over.
    pub fn reply(&mut self, command: &str) -> Result<Value> {
        let deadline = self.deadline();
        loop {
            let mut message = self.line(deadline)?;
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

    fn line(&mut self, deadline: Instant) -> Result<Value> {
        let mut line = Vec::new();
        loop {
            if Instant::now() >= deadline {
                return Err(self.late());
            }
            let available = match self.replies.fill_buf() {
                Ok([]) => return Err(gone("the VMM closed its monitor".into())),
                Ok(available) => available,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(self.late()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(gone(format!("reading from the VMM's monitor: {error}"))),
            };
            let end = available.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(available.len(), |at| at + 1);
            line.extend_from_slice(&available[..taken]);
            self.replies.consume(taken);
            if end.is_some() {
                return serde_json::from_slice(&line)
                    .map_err(|error| gone(format!("the VMM's monitor is not understood: {error}")));
            }
            if line.len() > LINE_BYTES_MAX {
                return Err(gone("the VMM's monitor sends a line without end".into()));
            }
        }
    }

    fn late(&self) -> PagerError {
        let seconds = self.patience.as_secs_f32();
        gone(format!("the VMM's monitor did not answer within {seconds} s"))
    }
}

impl Control for Monitor {
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

    /// Gives the VMM a descriptor, so that no path and no permission is needed.
    fn save_to(&mut self, file: &File) -> Result<()> {
        // QEMU takes a descriptor only if it is open the way it would open the file itself: for writing alone.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let write_only = OpenOptions::new()
            .write(true)
            .open(path)
            .step(|| "opening a memfd for writing".into())?;
        // An earlier attempt may have failed before it took its descriptor back.
        let _ = self.forget_file();
        self.send_with_fds("add-fd", json!({ "fdset-id": FDSET }), &[write_only.as_fd()])?;
        self.reply("add-fd").map(drop)
    }

    fn stop_and_save(&mut self, quiet: bool) -> Result<()> {
        // Not `live`: of a VM that stands, that would also give its disks away until it runs again, and a second save before
        // then (of a paused VM) would end the VMM. What is written is the same.
        let save = json!({ "filename": format!("/dev/fdset/{FDSET}"), "live": false });
        self.send("stop", json!({}))?;
        if quiet {
            // Sent with the stop, so that the VMM goes from one to the other without waiting for us.
            self.send(SAVE, save.clone())?;
        }
        self.reply("stop")?;
        if !quiet {
            // Its main loop goes round, twice, so that whatever it could still move for a stopped VM has been moved.
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

    /// Its shim calls.
    fn ask_for_memory(&mut self, _: &Sandbox) -> Result<Option<Attachment>> {
        Ok(None)
    }
}

pub fn gone(message: String) -> PagerError {
    PagerError::new(FaultCode::VmGone, message)
}

/// Connects to a unix socket that may still be coming up.
pub fn connect(path: &str) -> Result<UnixStream> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    loop {
        match UnixStream::connect(path) {
            Ok(socket) => return Ok(socket),
            Err(error) if Instant::now() > deadline => return Err(gone(format!("connecting to {path}: {error}"))),
            // A socket cannot be waited for before it exists.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(gone(format!("connecting to {path}: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(100);

    /// A monitor that greets, and then sends `noise` for as long as somebody listens.
    fn noisy(noise: &'static [u8]) -> Result<Monitor> {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        std::thread::spawn(move || {
            let greeting = b"{\"QMP\": {}}\n{\"return\": {}}\n";
            let mut sent = theirs.write_all(greeting);
            while sent.is_ok() && !noise.is_empty() {
                sent = theirs.write_all(noise);
                std::thread::sleep(Duration::from_millis(1));
            }
            // Held open until the other side has gone.
            let _ = std::io::Read::read_to_end(&mut theirs, &mut Vec::new());
        });
        Monitor::over(ours, PATIENCE)
    }

    fn failure(noise: &'static [u8]) -> String {
        let mut monitor = noisy(noise).expect("it greets");
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
        monitor.patience = Duration::from_secs(60);
        let error = monitor.call("stop", json!({})).expect_err("no reply");
        assert!(error.message.contains("without end"), "{}", error.message);
    }
}
