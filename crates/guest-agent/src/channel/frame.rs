//! Frames of the channel: `COBS(kind u8, connection u32 LE, payload, crc32 u32 LE) 0x00`.

use super::cobs;

/// Longest payload of one frame.
pub const PAYLOAD_MAX: usize = 16 * 1024;
const HEADER: usize = 5;
const TRAILER: usize = 4;
const RAW_MAX: usize = HEADER + PAYLOAD_MAX + TRAILER;
const ENCODED_MAX: usize = RAW_MAX + RAW_MAX / 254 + 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Open = 1,
    OpenAck = 2,
    Data = 3,
    Close = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Open, Kind::OpenAck, Kind::Data, Kind::Close]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub connection: u32,
    pub payload: Vec<u8>,
}

/// The bytes of one frame, its delimiter included. `parts` are the payload, in pieces.
pub fn encode(kind: Kind, connection: u32, parts: &[&[u8]]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(RAW_MAX);
    raw.push(kind as u8);
    raw.extend_from_slice(&connection.to_le_bytes());
    for part in parts {
        raw.extend_from_slice(part);
    }
    assert!(
        raw.len() <= HEADER + PAYLOAD_MAX,
        "a payload is at most {PAYLOAD_MAX} bytes"
    );
    let crc = crc32fast::hash(&raw);
    raw.extend_from_slice(&crc.to_le_bytes());
    let mut out = Vec::new();
    cobs::encode(&raw, &mut out);
    out.push(0);
    out
}

/// Finds frames in a stream of bytes. What is no frame is dropped, up to the next delimiter.
#[derive(Default)]
pub struct Decoder {
    pending: Vec<u8>,
    raw: Vec<u8>,
    /// The bytes since the last delimiter were too many for a frame: nothing is kept until the next one.
    overlong: bool,
}

impl Decoder {
    /// Takes bytes in up to the first complete frame. Returns how many were taken, and the frame where there was one.
    pub fn next(&mut self, bytes: &[u8]) -> (usize, Option<Frame>) {
        let mut taken = 0;
        while taken < bytes.len() {
            let rest = &bytes[taken..];
            let Some(length) = rest.iter().position(|&byte| byte == 0) else {
                self.keep(rest);
                return (bytes.len(), None);
            };
            self.keep(&rest[..length]);
            taken += length + 1;
            if let Some(frame) = self.finish() {
                return (taken, Some(frame));
            }
        }
        (taken, None)
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.overlong || self.pending.len() + bytes.len() > ENCODED_MAX {
            self.overlong = true;
            self.pending.clear();
        } else {
            self.pending.extend_from_slice(bytes);
        }
    }

    fn finish(&mut self) -> Option<Frame> {
        let well_formed = !std::mem::take(&mut self.overlong)
            && !self.pending.is_empty()
            && cobs::decode(&self.pending, &mut self.raw);
        self.pending.clear();
        if well_formed { parse(&self.raw) } else { None }
    }
}

fn parse(raw: &[u8]) -> Option<Frame> {
    if raw.len() < HEADER + TRAILER || raw.len() > RAW_MAX {
        return None;
    }
    let (body, crc) = raw.split_at(raw.len() - TRAILER);
    if crc32fast::hash(body).to_le_bytes() != crc {
        return None;
    }
    Some(Frame {
        kind: Kind::from_byte(body[0])?,
        connection: u32::from_le_bytes(body[1..HEADER].try_into().ok()?),
        payload: body[HEADER..].to_vec(),
    })
}

#[cfg(test)]
#[path = "frame_test.rs"]
mod tests;
