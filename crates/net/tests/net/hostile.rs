//! Guests that send what no kernel sends.

use crate::forks::segment;
use crate::guest::{GATEWAY, Guest};
use crate::internet::{Echo, local};
use crate::program::{Program, eventually, policy};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use smoltcp::wire::TcpControl;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Made-up segments.
const CASES: u32 = 5_000;

/// Sets the checksum of an IPv4 header, so that nothing but the trick is wrong.
fn mend(frame: &mut [u8]) {
    let header = usize::from(frame[14] & 0xf) * 4;
    frame[24..26].fill(0);
    let words = frame[14..14 + header]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}

#[test]
fn frames_that_are_not_the_guests_own_plain_packets_are_refused() {
    let echo = Echo::start("127.0.0.1:0");
    let mut program = Program::start(local("api.test").address);
    let (key, wire) = program.attach();
    program.bind(&key, policy(&["127.0.0.1/32"]), None);
    let wire = UnixDatagram::from(wire);
    let syn = segment(1_000, (LOCAL, echo.port()), TcpControl::Syn, 1, None);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = syn.clone();
        change(&mut frame);
        if frame.len() > 34 && frame[12..14] == [8, 0] {
            mend(&mut frame);
        }
        frame
    };
    let options = |kind: u8| {
        changed(&|frame| {
            frame.splice(34..34, [kind, 7, 4, 127, 0, 0, 1, 0]);
            frame[14] = 0x47;
            frame[17] += 8;
        })
    };
    let tricks = [
        ("another source MAC", changed(&|frame| frame[11] = 9)),
        ("another destination MAC", changed(&|frame| frame[5] = 9)),
        ("a broadcast", changed(&|frame| frame[..6].fill(0xff))),
        ("another source address", changed(&|frame| frame[29] = 9)),
        (
            "the gateway's address",
            changed(&|frame| frame[26..30].copy_from_slice(&GATEWAY.octets())),
        ),
        ("IPv6", changed(&|frame| frame[12..14].copy_from_slice(&[0x86, 0xdd]))),
        (
            "a VLAN tag",
            changed(&|frame| frame[12..14].copy_from_slice(&[0x81, 0])),
        ),
        (
            "a raw ethertype",
            changed(&|frame| frame[12..14].copy_from_slice(&[0x88, 0xb5])),
        ),
        ("version 6 in an IPv4 frame", changed(&|frame| frame[14] = 0x65)),
        ("a first fragment", changed(&|frame| frame[20] = 0x20)),
        ("a later fragment", changed(&|frame| frame[21] = 1)),
        ("a dead packet", changed(&|frame| frame[22] = 0)),
        ("a loose source route", options(0x83)),
        ("a strict source route", options(0x89)),
        ("a header that is too short", changed(&|frame| frame[14] = 0x42)),
        ("a length beyond the frame", changed(&|frame| frame[17] = 0xff)),
        ("a port of zero", changed(&|frame| frame[34..36].fill(0))),
        ("half a header", syn[..30].to_vec()),
        ("half an Ethernet header", syn[..9].to_vec()),
        ("nothing", vec![]),
        ("more than a frame", vec![0; 65_535]),
    ];
    for (number, (trick, frame)) in tricks.iter().enumerate() {
        wire.send(frame).expect("sent");
        let refused = number as u64 + 1;
        let stats = program.await_stats(&key, |stats| {
            stats.frames_refused + stats.flows_denied + stats.flows_opened >= refused
        });
        assert_eq!((stats.frames_refused, stats.flows_open), (refused, 0), "{trick}");
    }
    assert_eq!(echo.connections(), 0);
    // The same packet without a trick is taken.
    wire.send(&syn).expect("sent");
    program.await_stats(&key, |stats| stats.flows_opened == 1);
}

#[test]
fn a_flood_has_limits_and_spares_the_neighbour() {
    let echo = Echo::start("127.0.0.1:0");
    let mut program = Program::start(local("api.test").address);
    let (key, wire) = program.attach();
    program.bind(&key, policy(&["127.0.0.1/32"]), None);
    let wire = UnixDatagram::from(wire);
    let (_, mut neighbour) = program.guest(&["127.0.0.1/32"]);
    let port = echo.port();
    let flood = std::thread::spawn(move || {
        wire.set_nonblocking(true).expect("non-blocking");
        let mut frame = [0; 70_000];
        for number in 0..20_000u32 {
            // Handshakes that are never completed, and resets of nothing.
            let from = 1_000 + (number % 60_000) as u16;
            while wire
                .send(&segment(from, (LOCAL, port), TcpControl::Syn, number, None))
                .is_err()
            {
                while wire.recv(&mut frame).is_ok() {}
                std::thread::yield_now();
            }
        }
        wire
    });
    for _ in 0..20 {
        let flow = neighbour.connect(LOCAL, port).expect("a connection");
        neighbour.send(flow, b"hello");
        assert_eq!(neighbour.receive(flow, 5), b"hello");
        neighbour.tcp(flow).abort();
    }
    let _wire = flood.join().expect("no panic");
    let stats = program.await_stats(&key, |stats| stats.frames >= 20_000);
    assert!(stats.flows_open <= 512, "{stats:?}");
}

/// The fields of a made-up segment, mostly near to what a connection would expect.
#[derive(Debug, Clone)]
struct Segment {
    from: u16,
    control: TcpControl,
    sequence: u32,
    /// Added to the number that the gateway has reached; `None`: no acknowledgement.
    acknowledged: Option<i32>,
    window: u16,
    payload: Vec<u8>,
    changes: Vec<(usize, u8)>,
}

fn segments() -> impl Strategy<Value = Segment> {
    let near = |base: u32| prop_oneof![9 => (0u32..3_000).prop_map(move |offset| base.wrapping_add(offset)), 1 => any::<u32>()];
    let control = [
        TcpControl::None,
        TcpControl::None,
        TcpControl::Psh,
        TcpControl::Syn,
        TcpControl::Fin,
        TcpControl::Rst,
    ];
    let offset = prop_oneof![6 => Just(0), 3 => -3i32..70_000, 1 => any::<i32>()];
    let acknowledged = prop_oneof![9 => offset.prop_map(Some), 1 => Just(None)];
    let changes = prop_oneof![9 => Just(vec![]), 1 => prop::collection::vec((14usize..80, any::<u8>()), 1..3)];
    let payload = prop::collection::vec(any::<u8>(), 0..200);
    // Sequence numbers wrap around in the middle.
    let parts = (
        1_000u16..1_008,
        prop::sample::select(control.to_vec()),
        near(u32::MAX - 1_500),
        acknowledged,
        any::<u16>(),
        payload,
        changes,
    );
    parts.prop_map(
        |(from, control, sequence, acknowledged, window, payload, changes)| Segment {
            from,
            control,
            sequence,
            acknowledged,
            window,
            payload,
            changes,
        },
    )
}

#[test]
fn made_up_segments_cause_no_fault_and_end_nothing() {
    let echo = Echo::start("127.0.0.1:0");
    let mut program = Program::start(local("api.test").address);
    let (key, wire) = program.attach();
    program.bind(&key, policy(&["127.0.0.1/32", "udp 127.0.0.1/32", "*.test"]), None);
    let wire = UnixDatagram::from(wire);
    wire.set_nonblocking(true).expect("non-blocking");
    let to = (LOCAL, echo.port());
    // The numbers that the gateway has reached, by port.
    let reached = RefCell::new(HashMap::<u16, u32>::new());
    let read = || {
        let mut frame = [0; 70_000];
        while let Ok(length) = wire.recv(&mut frame) {
            if let Some((port, sequence, false)) = crate::forks::read_segment(&frame[..length]) {
                reached.borrow_mut().insert(port, sequence);
            }
        }
    };
    let mut runner = TestRunner::new(Config::with_cases(CASES));
    let result = runner.run(&segments(), |made| {
        read();
        let base = reached.borrow().get(&made.from).copied().unwrap_or_default();
        let acknowledged = made.acknowledged.map(|offset| base.wrapping_add_signed(offset));
        let mut frame = segment(made.from, to, made.control, made.sequence, acknowledged);
        frame.extend(&made.payload);
        frame[16..18].copy_from_slice(&((20 + 20 + made.payload.len()) as u16).to_be_bytes());
        frame[48..50].copy_from_slice(&made.window.to_be_bytes());
        for (at, byte) in made.changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        while wire.send(&frame).is_err() {
            read();
            std::thread::yield_now();
        }
        Ok(())
    });
    result.expect("all were sent");
    eventually("the last frame", || {
        read();
        program.stats(&key).frames >= CASES.into()
    });
    assert!(program.stats(&key).flows_opened > 0);
    // The same sandbox still has its network.
    let mut guest = Guest::new(wire.into());
    let flow = guest.connect(LOCAL, echo.port()).expect("a connection");
    guest.send(flow, b"alive");
    assert_eq!(guest.receive(flow, 5), b"alive");
    assert_eq!(program.faults(), Vec::<String>::new());
}
