//! QEMU's machine protocol, as far as the pause window needs it.

use crate::error::{PagerError, Result, Step};
use forkd_linux_sys::fds;
use forkd_protocol::FaultCode;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A monitor that does not answer for this long is given up.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// A VMM may take this long to listen.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// No reply is longer.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// A connection of this process' own to a VMM.
#[derive(Debug)]
pub struct Monitor {
    socket: UnixStream,
    replies: BufReader<UnixStream>,
}

impl Monitor {
    pub fn connect(path: &str) -> Result<Monitor> {
        let socket = connect(path)?;
        socket
            .set_read_timeout(Some(REPLY_TIMEOUT))
            .step(|| "setting a timeout".into())?;
        let replies = BufReader::new(socket.try_clone().step(|| "duplicating a socket".into())?);
        let mut monitor = Monitor { socket, replies };
        monitor.line()?;
        monitor.call("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Stops the vCPUs until they are told to go on.
    pub fn stop(&mut self) -> Result<()> {
        self.call("stop", json!({})).map(drop)
    }

    /// Lets a VM go on that was stopped. Nobody but a pager stops VMs.
    pub fn run_if_stopped(&mut self) -> Result<()> {
        if self.is_stopped()? {
            self.call("cont", json!({}))?;
        }
        Ok(())
    }

    pub fn is_stopped(&mut self) -> Result<bool> {
        let status = self.call("query-status", json!({}))?;
        Ok(status.get("status").and_then(Value::as_str) == Some("paused"))
    }

    /// Waits until a VM runs that is being loaded. No command may be without its reply.
    pub fn wait_until_running(&mut self) -> Result<()> {
        while self.line()?.get("event").and_then(Value::as_str) != Some("RESUME") {}
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
        loop {
            let mut message = self.line()?;
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

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        let got = std::io::Read::take(&mut self.replies, LINE_BYTES_MAX).read_line(&mut line);
        match got {
            Ok(0) => Err(gone("the VMM closed its monitor".into())),
            Ok(_) => serde_json::from_str(&line)
                .map_err(|error| gone(format!("the VMM's monitor is not understood: {error}"))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(gone(format!(
                "the VMM's monitor did not answer within {} s",
                REPLY_TIMEOUT.as_secs()
            ))),
            Err(error) => Err(gone(format!("reading from the VMM's monitor: {error}"))),
        }
    }
}

fn gone(message: String) -> PagerError {
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
