//! Lines of JSON over a unix socket, and the descriptors that come with them.

use forkd_linux_sys::fds;
use forkd_protocol::net::MAX_LINE_BYTES;
use serde::Serialize;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

const PART_BYTES: usize = 16 << 10;
/// Descriptors that may wait for the line that they belong to.
const FDS_MAX: usize = 16;

/// Reads lines.
pub struct Lines {
    stream: UnixStream,
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Lines {
    pub fn new(stream: UnixStream) -> Lines {
        Lines {
            stream,
            bytes: Vec::new(),
            fds: VecDeque::new(),
        }
    }

    /// The next line, without its end. `None` when the connection has ended. `InvalidData` if a line is too long, or too many
    /// descriptors came.
    pub fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.bytes[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.bytes.split_off(searched + end + 1);
                let mut line = std::mem::replace(&mut self.bytes, rest);
                line.pop();
                return Ok(Some(line));
            }
            searched = self.bytes.len();
            if searched > MAX_LINE_BYTES || self.fds.len() > FDS_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.bytes.resize(searched + PART_BYTES, 0);
            let mut fds = Vec::new();
            let got = fds::receive_with_fds(&self.stream, &mut self.bytes[searched..], &mut fds);
            self.bytes.truncate(searched + *got.as_ref().unwrap_or(&0));
            self.fds.extend(fds);
            match got {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next descriptor that has come.
    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }

    /// The stream, if no byte after the last line has been read.
    pub fn into_stream(self) -> Option<UnixStream> {
        self.bytes.is_empty().then_some(self.stream)
    }
}

/// Writes a line, with descriptors.
pub fn send(stream: &UnixStream, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    fds::send_with_fds(stream, &line(message), fds)
}

pub fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("a message is plain data");
    line.push(b'\n');
    line
}
