//! The wire to one VMM: a datagram is an Ethernet frame.

use crate::addresses::{GATEWAY_MAC, GUEST_MAC, MTU};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, EthernetRepr};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

const HEADER: usize = 14;
/// A longer datagram is no frame, and is refused.
const FRAME_BYTES_MAX: usize = HEADER + MTU;
/// Bytes that may wait for the guest: with more, nothing is read from it, and no socket writes.
const WAITING_BYTES_MAX: usize = 512 << 10;

/// The outcome of an attempt to read a frame.
pub enum Received<'a> {
    Frame(&'a [u8]),
    /// A datagram that is empty, or longer than any frame.
    NoFrame,
    Nothing,
    /// The VMM has closed its end.
    Gone,
}

/// Reads frames. One buffer serves all of them.
pub struct Input {
    buffer: Vec<u8>,
}

impl Input {
    pub fn new() -> Input {
        Input {
            // A byte more than the longest frame shows that a datagram is longer.
            buffer: vec![0; FRAME_BYTES_MAX + 1],
        }
    }

    pub fn receive(&mut self, wire: BorrowedFd<'_>) -> Received<'_> {
        loop {
            return match rustix::net::recv(wire, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => Received::NoFrame,
                Ok((length, _)) if length > FRAME_BYTES_MAX => Received::NoFrame,
                Ok((length, _)) => Received::Frame(&self.buffer[..length]),
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => Received::Nothing,
                Err(_) => Received::Gone,
            };
        }
    }
}

/// Frames that wait to be sent to the guest.
pub struct Output {
    wire: Arc<OwnedFd>,
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    is_gone: bool,
}

impl Output {
    pub fn new(wire: Arc<OwnedFd>) -> Output {
        Output {
            wire,
            frames: VecDeque::new(),
            bytes: 0,
            is_gone: false,
        }
    }

    pub fn is_full(&self) -> bool {
        self.bytes >= WAITING_BYTES_MAX
    }

    /// True if the VMM has closed its end.
    pub fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Queues a frame whose payload of `length` bytes is written by `fill`.
    pub fn push<R>(&mut self, kind: EthernetProtocol, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut frame = vec![0; HEADER + length];
        let header = EthernetRepr {
            src_addr: GATEWAY_MAC,
            dst_addr: GUEST_MAC,
            ethertype: kind,
        };
        header.emit(&mut EthernetFrame::new_unchecked(&mut frame[..HEADER]));
        let result = fill(&mut frame[HEADER..]);
        self.bytes += frame.len();
        self.frames.push_back(frame);
        result
    }

    /// The payload of the frames from `index` on, of those that wait.
    pub fn since(&self, index: usize) -> impl Iterator<Item = &[u8]> {
        self.frames.range(index..).map(|frame| &frame[HEADER..])
    }

    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Sends what the wire takes.
    pub fn flush(&mut self) {
        while let Some(frame) = self.frames.front() {
            match rustix::net::send(&*self.wire, frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => return,
                Err(_) => {
                    self.is_gone = true;
                    return;
                }
            }
            self.bytes -= frame.len();
            self.frames.pop_front();
        }
        if self.frames.capacity() > 64 {
            self.frames.shrink_to(16);
        }
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.as_fd()
    }
}

/// The device that smoltcp sees during one call: at most one packet from the guest, and the way back. The checksums of the guest are not
/// verified: the wire is memory of this host.
pub struct Port<'a> {
    pub packet: Option<&'a [u8]>,
    pub output: &'a mut Output,
}

pub struct RxToken<'a>(&'a [u8]);
pub struct TxToken<'a>(&'a mut Output);

impl smoltcp::phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

impl smoltcp::phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        self.0.push(EthernetProtocol::Ipv4, length, fill)
    }
}

impl Device for Port<'_> {
    type RxToken<'a>
        = RxToken<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = TxToken<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        Some((RxToken(self.packet.take()?), TxToken(self.output)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        (!self.output.is_full()).then_some(TxToken(self.output))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities.checksum.udp = Checksum::Tx;
        capabilities.checksum.icmpv4 = Checksum::Tx;
        capabilities
    }
}
