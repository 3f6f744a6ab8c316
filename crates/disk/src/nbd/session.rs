//! Requests of one connection, one after the other.
//!
//! Everything that has arrived is read by one call, and all of its small replies are sent by one call. A write goes to its file from where
//! it was received. A large read is not copied here: the kernel sends the pages of the file.

use crate::disk::Disk;
use crate::error::{DiskError, Result};
use crate::nbd::PAYLOAD_BYTES_MAX;
use crate::nbd::request::{self, Command, REPLY_BYTES, REQUEST_BYTES, Request};
use crate::stack::Part;
use forkd_linux_sys::fds;
use forkd_protocol::FaultCode;
use forkd_protocol::disk::BLOCK_SIZE;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A read of at least so many bytes is sent from its file.
const DIRECT_BYTES_MIN: usize = 64 << 10;

/// The parts of such a read have at least so many bytes, on average.
const PART_BYTES_MIN: usize = 32 << 10;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Room for one request of the largest size, and some small ones.
const BUFFER_BYTES: usize = PAYLOAD_BYTES_MAX + (64 << 10);

/// Bytes that are used up from the front and filled from the back.
struct Input {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Input {
    fn new() -> Input {
        Input {
            bytes: vec![0; BUFFER_BYTES].into(),
            start: 0,
            end: 0,
        }
    }

    fn available(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn used(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads once, and makes room before if `wanted` bytes would not fit. Returns false at the end of the input.
    fn fill(&mut self, mut stream: &UnixStream, wanted: usize) -> io::Result<bool> {
        if self.start + wanted > self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        loop {
            match stream.read(&mut self.bytes[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Serves `disk` until the client hangs up. `idle` is called after replies were sent, before the next request is waited for.
pub fn serve(mut stream: &UnixStream, disk: &Disk, idle: impl Fn()) -> io::Result<()> {
    let mut input = Input::new();
    let mut output: Box<[u8]> = vec![0; BUFFER_BYTES].into();
    let mut filled = 0;
    loop {
        let wanted = loop {
            let Some((header, rest)) = input.available().split_first_chunk::<REQUEST_BYTES>() else {
                break REQUEST_BYTES;
            };
            let Some(request) = Request::parse(header) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            if request.command == Command::Disconnect {
                return stream.write_all(&output[..filled]);
            }
            let Some(payload) = rest.get(..request.payload()) else {
                break REQUEST_BYTES + request.payload();
            };
            if filled + REPLY_BYTES + request.answer() > output.len() {
                stream.write_all(&output[..filled])?;
                filled = 0;
            }
            match direct_parts(disk, &request) {
                Some(parts) => {
                    output[filled..filled + REPLY_BYTES].copy_from_slice(&request::reply(request.cookie, &Ok(())));
                    stream.write_all(&output[..filled + REPLY_BYTES])?;
                    filled = 0;
                    send(stream, &parts)?;
                }
                None => filled += execute(disk, &request, payload, &mut output[filled..]),
            }
            input.used(REQUEST_BYTES + request.payload());
        };
        if filled > 0 {
            stream.write_all(&output[..filled])?;
            filled = 0;
            idle();
        }
        if !input.fill(stream, wanted)? {
            return Ok(());
        }
    }
}

/// The parts of a disk that a large read is sent from. `None`: the request is a small one, is for blocks that are scattered, or must fail.
fn direct_parts(disk: &Disk, request: &Request) -> Option<Vec<Part>> {
    if request.answer() < DIRECT_BYTES_MIN {
        return None;
    }
    let blocks = request.blocks(disk.blocks()).ok()?;
    let parts = catch_unwind(AssertUnwindSafe(|| disk.parts(blocks))).ok()?.ok()?;
    (parts.len() * PART_BYTES_MIN <= request.answer()).then_some(parts)
}

/// Sends parts of a disk. After a failure the client cannot be told: the connection has to end, and the client asks again.
fn send(mut stream: &UnixStream, parts: &[Part]) -> io::Result<()> {
    for Part { blocks, place } in parts {
        let bytes = blocks * BLOCK_SIZE;
        match place {
            Some((layer, slot)) => fds::send_file(stream, &layer.data, slot * BLOCK_SIZE, bytes)?,
            None => {
                for at in (0..bytes).step_by(ZEROS.len()) {
                    stream.write_all(&ZEROS[..ZEROS.len().min((bytes - at) as usize)])?;
                }
            }
        }
    }
    Ok(())
}

/// Executes a request, and writes the reply to the beginning of `output`. Returns its length.
fn execute(disk: &Disk, request: &Request, payload: &[u8], output: &mut [u8]) -> usize {
    // A panic must not leave the client waiting forever. Its message is in the log.
    let result = catch_unwind(AssertUnwindSafe(|| {
        apply(disk, request, payload, &mut output[REPLY_BYTES..])
    }));
    let panicked = |_| Err(DiskError::new(FaultCode::Internal, "a fault of the disk server"));
    let result = result.unwrap_or_else(panicked);
    output[..REPLY_BYTES].copy_from_slice(&request::reply(request.cookie, &result));
    let answer = if result.is_ok() { request.answer() } else { 0 };
    REPLY_BYTES + answer
}

fn apply(disk: &Disk, request: &Request, payload: &[u8], answer: &mut [u8]) -> Result<()> {
    let blocks = request.blocks(disk.blocks())?;
    match request.command {
        Command::Read => disk.read(blocks.start, &mut answer[..request.answer()]),
        Command::Write => disk.write(blocks.start, payload),
        Command::Clear => disk.clear(blocks),
        Command::Disconnect | Command::Unknown => unreachable!("refused before"),
    }
}
