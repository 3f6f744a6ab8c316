//! A fork's inherited connections are reset, and its source's go on.

use crate::guest::{ADDRESS, GATEWAY_MAC, MAC};
use crate::internet::{Echo, local};
use crate::program::{PATIENCE, Program, policy};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{EthernetFrame, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;

/// A segment that a guest's kernel would send.
pub fn segment(
    from: u16,
    to: (Ipv4Addr, u16),
    control: TcpControl,
    sequence: u32,
    acknowledged: Option<u32>,
) -> Vec<u8> {
    let tcp = TcpRepr {
        src_port: from,
        dst_port: to.1,
        control,
        seq_number: TcpSeqNumber(sequence as i32),
        ack_number: acknowledged.map(|number| TcpSeqNumber(number as i32)),
        window_len: 1_000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let ip = Ipv4Repr {
        src_addr: ADDRESS,
        dst_addr: to.0,
        next_header: IpProtocol::Tcp,
        payload_len: tcp.buffer_len(),
        hop_limit: 64,
    };
    let mut frame = [&GATEWAY_MAC[..], &MAC, &[8, 0]].concat();
    frame.resize(14 + 20 + tcp.buffer_len(), 0);
    let checksums = ChecksumCapabilities::default();
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &checksums);
    tcp.emit(
        &mut TcpPacket::new_unchecked(&mut frame[34..]),
        &ADDRESS.into(),
        &to.0.into(),
        &checksums,
    );
    frame
}

/// A TCP segment to the guest: its port, the sequence number after it, and whether it is a reset.
pub fn read_segment(frame: &[u8]) -> Option<(u16, u32, bool)> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    let ip = Ipv4Packet::new_checked(frame.payload()).ok()?;
    let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
    let next = tcp.seq_number() + tcp.segment_len();
    Some((tcp.dst_port(), next.0 as u32, tcp.rst()))
}

fn next_segment(wire: &UnixDatagram) -> (u16, u32, bool) {
    let mut frame = [0; 70_000];
    let length = wire.recv(&mut frame).expect("a frame in time");
    read_segment(&frame[..length]).expect("a segment")
}

#[test]
fn a_fork_gets_a_reset_for_each_inherited_connection() {
    let echo = Echo::start("127.0.0.1:0");
    let mut program = Program::start(local("api.test").address);
    let rules = ["127.0.0.1/32"];
    let (key, mut guest) = program.guest(&rules);
    let flows: Vec<_> = (0..5)
        .map(|_| guest.connect(Ipv4Addr::LOCALHOST, echo.port()).expect("a connection"))
        .collect();
    for flow in &flows {
        guest.send(*flow, b"before the fork");
        assert_eq!(guest.receive(*flow, 15), b"before the fork");
    }
    // A connection that ends before the mark may have been open in the pause.
    let closed = guest.connect(Ipv4Addr::LOCALHOST, echo.port()).expect("a connection");
    let mut ports: Vec<u16> = flows
        .iter()
        .chain([&closed])
        .map(|flow| guest.local_port(*flow))
        .collect();
    guest.tcp(closed).abort();
    guest.poll();
    program.await_stats(&key, |stats| stats.flows_open == 5);
    let inherited = program.mark(&key);
    assert_eq!(inherited.connections.len(), 6);

    let (child, wire) = program.attach();
    program.bind(&child, policy(&rules), Some(inherited.clone()));
    let wire = UnixDatagram::from(wire);
    wire.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    for connection in &inherited.connections {
        let (port, sequence, is_reset) = next_segment(&wire);
        assert_eq!(
            (port, sequence, is_reset),
            (connection.guest_port, connection.next_sequence, true)
        );
        let (port, sequence, is_reset) = next_segment(&wire);
        assert_eq!((port, is_reset), (connection.guest_port, false));
        // Outside of any window, so that a guest answers with what it expects.
        assert_eq!(sequence.wrapping_sub(connection.next_sequence), 1 << 31);
        ports.retain(|known| *known != port);
    }
    assert!(ports.is_empty(), "{ports:?}");
    // The answer leads to a reset at exactly what the guest expects, even if the mark has guessed wrong.
    let expected = inherited.connections[0].next_sequence.wrapping_sub(777);
    let to = (Ipv4Addr::LOCALHOST, echo.port());
    let port = inherited.connections[0].guest_port;
    wire.send(&segment(port, to, TcpControl::None, 99, Some(expected)))
        .expect("sent");
    assert_eq!(next_segment(&wire), (port, expected, true));

    for flow in flows {
        guest.send(flow, b"after the fork");
        assert_eq!(guest.receive(flow, 14), b"after the fork");
    }
}
