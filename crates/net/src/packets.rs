//! Packets that the gateway writes itself.

use crate::addresses::{GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC};
use crate::link::Output;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetProtocol, Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, IpProtocol,
    Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};
use std::net::Ipv4Addr;

const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const HOP_LIMIT: u8 = 64;
/// Bytes of a refused packet that are sent back: its header and its ports.
const QUOTED_BYTES: usize = 8;

/// A TCP connection of the guest: its port, and the address and port at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    pub guest_port: u16,
    pub address: Ipv4Addr,
    pub port: u16,
}

impl FlowId {
    /// The flow in one word, which is at least 2^48 because no guest port is 0.
    pub fn token(self) -> u64 {
        u64::from(self.guest_port) << 48 | u64::from(self.address.to_bits()) << 16 | u64::from(self.port)
    }

    pub fn of_token(token: u64) -> FlowId {
        FlowId {
            guest_port: (token >> 48) as u16,
            address: Ipv4Addr::from_bits((token >> 16) as u32),
            port: token as u16,
        }
    }
}

/// Writes a TCP segment without data to the guest.
pub fn tcp(output: &mut Output, id: FlowId, control: TcpControl, sequence: u32, acknowledged: Option<u32>) {
    let number = |value: u32| TcpSeqNumber(value as i32);
    let tcp = TcpRepr {
        src_port: id.port,
        dst_port: id.guest_port,
        control,
        seq_number: number(sequence),
        ack_number: acknowledged.map(number),
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    ip(output, id.address, IpProtocol::Tcp, tcp.buffer_len(), |bytes| {
        let checksums = ChecksumCapabilities::default();
        tcp.emit(
            &mut TcpPacket::new_unchecked(bytes),
            &id.address.into(),
            &GUEST.into(),
            &checksums,
        );
    });
}

/// Writes a datagram to the guest.
pub fn udp(output: &mut Output, from: (Ipv4Addr, u16), to_port: u16, payload: &[u8]) {
    let udp = UdpRepr {
        src_port: from.1,
        dst_port: to_port,
    };
    ip(output, from.0, IpProtocol::Udp, UDP_HEADER + payload.len(), |bytes| {
        let mut packet = UdpPacket::new_unchecked(bytes);
        let (source, guest) = (from.0.into(), GUEST.into());
        let fill = |room: &mut [u8]| room.copy_from_slice(payload);
        udp.emit(
            &mut packet,
            &source,
            &guest,
            payload.len(),
            fill,
            &ChecksumCapabilities::default(),
        );
    });
}

/// Tells the guest that a packet of its is not allowed.
pub fn prohibited(output: &mut Output, refused: &Ipv4Packet<&[u8]>) {
    let payload = refused.payload();
    let icmp = Icmpv4Repr::DstUnreachable {
        reason: Icmpv4DstUnreachable::CommProhibited,
        header: Ipv4Repr {
            src_addr: refused.src_addr(),
            dst_addr: refused.dst_addr(),
            next_header: refused.next_header(),
            payload_len: payload.len(),
            hop_limit: refused.hop_limit(),
        },
        data: &payload[..payload.len().min(QUOTED_BYTES)],
    };
    self::icmp(output, &icmp);
}

/// Answers a ping to the gateway. True if the packet is one.
pub fn pong(output: &mut Output, packet: &[u8]) -> bool {
    let Ok(packet) = Icmpv4Packet::new_checked(packet) else {
        return false;
    };
    let Ok(Icmpv4Repr::EchoRequest { ident, seq_no, data }) =
        Icmpv4Repr::parse(&packet, &ChecksumCapabilities::ignored())
    else {
        return false;
    };
    icmp(output, &Icmpv4Repr::EchoReply { ident, seq_no, data });
    true
}

/// Answers the guest's question for a hardware address: every address but its own is at the gateway.
pub fn arp(output: &mut Output, packet: &[u8]) {
    let Ok(packet) = ArpPacket::new_checked(packet) else {
        return;
    };
    let Ok(ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        target_protocol_addr: asked,
        ..
    }) = ArpRepr::parse(&packet)
    else {
        return;
    };
    if asked == GUEST {
        return;
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: GATEWAY_MAC,
        source_protocol_addr: asked,
        target_hardware_addr: GUEST_MAC,
        target_protocol_addr: GUEST,
    };
    output.push(EthernetProtocol::Arp, reply.buffer_len(), |bytes| {
        reply.emit(&mut ArpPacket::new_unchecked(bytes));
    });
}

fn icmp(output: &mut Output, icmp: &Icmpv4Repr<'_>) {
    ip(output, GATEWAY, IpProtocol::Icmp, icmp.buffer_len(), |bytes| {
        icmp.emit(
            &mut Icmpv4Packet::new_unchecked(bytes),
            &ChecksumCapabilities::default(),
        );
    });
}

fn ip(output: &mut Output, from: Ipv4Addr, protocol: IpProtocol, length: usize, fill: impl FnOnce(&mut [u8])) {
    let header = Ipv4Repr {
        src_addr: from,
        dst_addr: GUEST,
        next_header: protocol,
        payload_len: length,
        hop_limit: HOP_LIMIT,
    };
    output.push(EthernetProtocol::Ipv4, IP_HEADER + length, |bytes| {
        header.emit(
            &mut Ipv4Packet::new_unchecked(&mut *bytes),
            &ChecksumCapabilities::default(),
        );
        fill(&mut bytes[IP_HEADER..]);
    });
}
