//! The network block device protocol, as far as QEMU needs it: fixed newstyle negotiation, simple replies, no flush.
//!
//! Flush is not offered because every write that was answered is in files already. So a VMM that stops its VM waits for replies, and never
//! for a disk. The smallest request that is offered is a block, so the VMM does the read-modify-write of smaller ones.

pub mod handshake;
pub mod request;
pub mod server;
pub mod session;

/// The most content of one request, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 2 << 20;
