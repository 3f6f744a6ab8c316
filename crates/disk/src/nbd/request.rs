//! Requests and replies after the handshake.
//!
//! ```text
//! request: magic 0x25609513 (4), flags (2), command (2), cookie (8), offset (8), length (4), then the content of a write
//! reply:   magic 0x67446698 (4), error (4), cookie (8), then the content of a read that succeeded
//! ```
//! All numbers are big-endian.

use crate::error::{DiskError, Result};
use crate::nbd::PAYLOAD_BYTES_MAX;
use forkd_protocol::FaultCode;
use forkd_protocol::disk::BLOCK_SIZE;
use std::ops::Range;

pub const REQUEST_BYTES: usize = 28;
pub const REPLY_BYTES: usize = 16;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

/// A write of zeros must leave its space allocated: a hint only.
const FLAG_NO_HOLE: u16 = 1 << 1;

const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Read,
    Write,
    /// The client hangs up.
    Disconnect,
    /// Blocks become zeros, and their space is freed.
    Clear,
    /// A command that was not offered.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub command: Command,
    has_unknown_flags: bool,
    /// The name that the client gave the request.
    pub cookie: [u8; 8],
    offset: u64,
    length: u32,
}

impl Request {
    /// Parses a request. `None`: the client does not speak the protocol, or sends more than it was told to, and what follows cannot be
    /// told apart.
    pub fn parse(bytes: &[u8; REQUEST_BYTES]) -> Option<Request> {
        let u16_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let command = match u16_at(6) {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            4 | 6 => Command::Clear,
            _ => Command::Unknown,
        };
        let allowed = if u16_at(6) == 6 { FLAG_NO_HOLE } else { 0 };
        let request = Request {
            command,
            has_unknown_flags: u16_at(4) & !allowed != 0,
            cookie: bytes[8..16].try_into().expect("eight bytes"),
            offset: u64::from_be_bytes(bytes[16..24].try_into().expect("eight bytes")),
            length: u32_at(24),
        };
        (u32_at(0) == REQUEST_MAGIC && request.payload() <= PAYLOAD_BYTES_MAX).then_some(request)
    }

    /// The bytes that follow the request.
    pub fn payload(&self) -> usize {
        match self.command {
            Command::Write => self.length as usize,
            _ => 0,
        }
    }

    /// The bytes that follow the reply, if the request succeeds.
    pub fn answer(&self) -> usize {
        match self.command {
            Command::Read => self.length as usize,
            _ => 0,
        }
    }

    /// The blocks that the request is for, on a disk of `blocks` blocks.
    pub fn blocks(&self, blocks: u64) -> Result<Range<u64>> {
        let refused =
            |why: &str| DiskError::bad_request(format!("a request at {} of {}: {why}", self.offset, self.length));
        let length = u64::from(self.length);
        if self.command == Command::Unknown || self.has_unknown_flags {
            return Err(refused("its command or a flag was not offered"));
        }
        if !self.offset.is_multiple_of(BLOCK_SIZE) || !length.is_multiple_of(BLOCK_SIZE) || length == 0 {
            return Err(refused("it is not of whole blocks"));
        }
        if self.answer() > PAYLOAD_BYTES_MAX {
            return Err(refused("it is for more than was offered"));
        }
        let (first, count) = (self.offset / BLOCK_SIZE, length / BLOCK_SIZE);
        match first.checked_add(count) {
            Some(end) if end <= blocks => Ok(first..end),
            _ => Err(refused("it is beyond the end of the disk")),
        }
    }
}

/// The beginning of a reply.
pub fn reply(cookie: [u8; 8], result: &Result<()>) -> [u8; REPLY_BYTES] {
    let error = match result {
        Ok(()) => 0,
        Err(error) => match error.code {
            FaultCode::DiskFull => ENOSPC,
            FaultCode::BadRequest => EINVAL,
            FaultCode::Busy => EPERM,
            _ => EIO,
        },
    };
    let mut bytes = [0; REPLY_BYTES];
    bytes[..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.to_be_bytes());
    bytes[8..].copy_from_slice(&cookie);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(flags: u16, command: u16, offset: u64, length: u32) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&command.to_be_bytes());
        bytes[8..16].copy_from_slice(b"a cookie");
        bytes[16..24].copy_from_slice(&offset.to_be_bytes());
        bytes[24..].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    fn blocks(flags: u16, command: u16, offset: u64, length: u32) -> Result<Range<u64>> {
        Request::parse(&bytes(flags, command, offset, length))
            .expect("a request")
            .blocks(1 << 20)
    }

    #[test]
    fn a_request_is_for_whole_blocks_inside_the_disk() {
        assert_eq!(blocks(0, 0, 4096, 8192).expect("blocks"), 1..3);
        assert_eq!(
            blocks(0, 1, (1 << 32) - 4096, 4096).expect("blocks"),
            (1 << 20) - 1..1 << 20
        );
        assert_eq!(blocks(2, 6, 0, 1 << 31).expect("blocks"), 0..1 << 19);
        for (flags, command, offset, length) in [
            (0, 0, 1, 4096),
            (0, 0, 0, 4095),
            (0, 0, 0, 0),
            (0, 0, 1 << 32, 4096),
            (0, 4, u64::MAX - 4095, 4096),
            (0, 0, 0, PAYLOAD_BYTES_MAX as u32 + 4096),
            (1, 1, 0, 4096),
            (2, 4, 0, 4096),
            (0, 3, 0, 4096),
            (0, 77, 0, 4096),
        ] {
            assert_eq!(
                blocks(flags, command, offset, length).expect_err("refused").code,
                FaultCode::BadRequest
            );
        }
    }

    #[test]
    fn a_request_after_which_nothing_can_be_told_apart_is_none() {
        assert!(Request::parse(&bytes(0, 1, 0, PAYLOAD_BYTES_MAX as u32 + 1)).is_none());
        assert!(Request::parse(&[0; REQUEST_BYTES]).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in any::<[u8; REQUEST_BYTES]>(), disk in 1..1u64 << 27) {
            let mut bytes = bytes;
            bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
            if let Some(request) = Request::parse(&bytes) {
                prop_assert!(request.payload() <= PAYLOAD_BYTES_MAX);
                if let Ok(blocks) = request.blocks(disk) {
                    prop_assert!(blocks.start < blocks.end && blocks.end <= disk);
                    prop_assert!(request.answer() <= PAYLOAD_BYTES_MAX);
                }
            }
        }
    }
}
