//! Names mean what the host resolves, and nothing else.

use crate::internet::{Echo, Known, Resolver, local};
use crate::program::{Program, eventually, policy};
use forkd_protocol::net::{Answer, Op, Phase, Reason, Transport};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn an_allowed_name_is_reached_byte_for_byte_and_recorded() {
    let echo = Echo::start("127.0.0.1:0");
    let mut program = Program::start(local("api.test").address);
    let mut records = program.records();
    let (_, mut guest) = program.guest(&["api.test", "127.0.0.1/32"]);

    let flow = guest.connect_to("api.test", echo.port()).expect("a connection");
    let sent: Vec<u8> = (0..3 << 20).map(|at: u32| (at ^ at >> 8) as u8).collect();
    let mut received = Vec::new();
    for part in sent.chunks(64 << 10) {
        guest.send(flow, part);
        received.extend(guest.receive(flow, part.len()));
    }
    assert!(received == sent, "an echo differs");
    guest.tcp(flow).close();
    let opened = records.next();
    guest.until("the end of the flow", |guest| {
        (!guest.tcp(flow).is_open()).then_some(())
    });
    let closed = records.next();

    assert_eq!(
        (opened.phase, opened.name.as_deref()),
        (Phase::Opened, Some("api.test"))
    );
    assert_eq!((opened.address, opened.port), (LOCAL, echo.port()));
    assert_eq!(opened.rule.as_deref(), Some("api.test"));
    assert_eq!((closed.phase, closed.reason), (Phase::Closed, None));
    let bytes = sent.len() as u64;
    assert_eq!((closed.sent_bytes, closed.received_bytes), (bytes, bytes));
}

#[test]
fn tricks_with_names_reach_nothing() {
    let echo = Echo::start("127.0.0.1:0");
    let private = Ipv4Addr::new(10, 1, 2, 3);
    let resolver = Resolver::start(&[
        ("rebinds.test", Known::At(vec![LOCAL])),
        ("alias.test", Known::Alias(vec!["one.test", "two.test"], private)),
        ("good-alias.test", Known::Alias(vec!["one.test", "two.test"], LOCAL)),
        ("other.test", Known::At(vec![LOCAL])),
        ("deep.sub.test", Known::At(vec![LOCAL])),
        ("sub.test", Known::At(vec![LOCAL])),
        ("denied.sub.test", Known::At(vec![LOCAL])),
    ]);
    let mut program = Program::start(resolver.address);
    let mut records = program.records();
    let rules = [
        "rebinds.test",
        "alias.test",
        "good-alias.test",
        "missing.test",
        "*.sub.test",
        "-denied.sub.test",
        "127.0.0.1/32",
    ];
    let (key, mut guest) = program.guest(&rules);
    let port = echo.port();
    let mut reason = |phase: Phase| loop {
        let record = records.next();
        if record.phase == phase {
            return (record.name.unwrap_or_default(), record.reason);
        }
    };

    // A name that changes its address after it was judged is judged again.
    assert!(guest.connect_to("rebinds.test", port).is_some());
    resolver.set("rebinds.test", Known::At(vec![private]));
    assert!(guest.connect_to("rebinds.test", port).is_none());
    assert_eq!(
        reason(Phase::Denied),
        ("rebinds.test".into(), Some(Reason::ReservedAddress))
    );
    // An alias leads where the policy allows, or nowhere.
    assert!(guest.connect_to("alias.test", port).is_none());
    assert_eq!(
        reason(Phase::Denied),
        ("alias.test".into(), Some(Reason::ReservedAddress))
    );
    assert!(guest.connect_to("good-alias.test", port).is_some());
    assert!(guest.connect_to("missing.test", port).is_none());
    assert_eq!(
        reason(Phase::Denied),
        ("missing.test".into(), Some(Reason::ResolveFailed))
    );
    // A suffix allows what is below it, and not itself.
    assert!(guest.connect_to("deep.sub.test", port).is_some());
    for name in [
        "sub.test",
        "denied.sub.test",
        "other.test",
        "x-sub.test",
        "rebinds.test.evil",
    ] {
        assert_eq!(guest.resolve(name), None, "{name}");
        assert_eq!(reason(Phase::Denied), (name.into(), Some(Reason::NoRule)));
    }
    // Case and record type change nothing: there is no IPv6 address, and no other record.
    assert!(guest.connect_to("DEEP.Sub.TEST", port).is_some());
    for kind in [2, 5, 15, 16, 28, 33, 64, 65, 255] {
        let reply = guest.query("deep.sub.test", kind);
        assert_eq!((reply[3] & 0xf, reply[7]), (0, 0), "type {kind}");
    }
    // An address of the synthetic range that was not given out is nothing.
    assert!(guest.connect(Ipv4Addr::new(198, 19, 7, 7), port).is_none());
    assert_eq!(reason(Phase::Denied).1, Some(Reason::NoRule));
    assert_eq!(echo.connections(), 4);

    // A flow that is no longer allowed is reset; one that is allowed goes on.
    let doomed = guest.connect_to("deep.sub.test", port).expect("a connection");
    let spared = guest.connect_to("good-alias.test", port).expect("a connection");
    let policy = policy(&["good-alias.test", "127.0.0.1/32"]);
    let answer = program.ask(Op::SetPolicy { key, policy });
    assert!(matches!(answer, Ok(Answer::Reset { flows: 1.. })), "{answer:?}");
    guest.until("a reset", |guest| guest.is_closed(doomed).then_some(()));
    guest.send(spared, b"still here");
    assert_eq!(guest.receive(spared, 10), b"still here");
    assert_eq!(guest.resolve("deep.sub.test"), None);
}

#[test]
fn queries_over_tcp_are_answered_alike() {
    let mut program = Program::start(local("api.test").address);
    let (_, mut guest) = program.guest(&["api.test"]);
    let flow = guest.connect(crate::guest::GATEWAY, 53).expect("a connection");
    for (name, answers) in [("api.test", 1), ("evil.test", 0)] {
        let query = crate::guest::query(name, 1);
        let framed = [&(query.len() as u16).to_be_bytes()[..], &query].concat();
        // In two parts, to see that a query is awaited whole.
        guest.send(flow, &framed[..5]);
        guest.send(flow, &framed[5..]);
        let length = guest.receive(flow, 2);
        let reply = guest.receive(flow, usize::from(u16::from_be_bytes([length[0], length[1]])));
        assert_eq!(reply[7], answers, "{name}");
    }
}

#[test]
fn an_address_means_the_same_name_in_a_fork() {
    let echo = Echo::start("127.0.0.1:0");
    let mut program = Program::start(local("api.test").address);
    let rules = ["api.test", "other.test", "127.0.0.1/32"];
    let (key, mut guest) = program.guest(&rules);
    let mut records = program.records();
    assert!(guest.resolve("other.test").is_some());
    let address = guest.resolve("api.test").expect("an address");
    let inherited = program.mark(&key);
    let (child, wire) = program.attach();
    program.bind(&child, policy(&rules), Some(inherited));
    let mut guest = crate::guest::Guest::new(wire);
    assert!(guest.connect(address, echo.port()).is_some());
    let record = records.next();
    assert_eq!(
        (record.name.as_deref(), record.transport),
        (Some("api.test"), Some(Transport::Tcp))
    );
    assert_eq!(record.sandbox, format!("sb-{child}"));
}

#[test]
fn a_name_that_no_resolver_answers_for_is_given_up_and_keeps_no_processor_busy() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut program = Program::start(silent.local_addr().expect("an address"));
    let mut records = program.records();
    let worker = program.worker_pid();
    let (_, mut guest) = program.guest(&["api.test"]);
    let address = guest.resolve("api.test").expect("an address");
    guest.begin(address, 443);
    guest.poll();
    let record = records.next();
    assert_eq!(
        (record.phase, record.reason),
        (Phase::Denied, Some(Reason::ResolveFailed))
    );
    // In ticks of 10 ms: seconds if a thread turned while it waited.
    let stat = std::fs::read_to_string(format!("/proc/{worker}/stat")).expect("a line");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: u64 = fields[11..13]
        .iter()
        .map(|field| field.parse::<u64>().expect("a number"))
        .sum();
    assert!(ticks < 100, "{ticks} ticks");
}

#[test]
fn bytes_that_came_before_a_reset_reach_the_guest() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let sent: Vec<u8> = (0..200 << 10).map(|at: u32| (at ^ at >> 8) as u8).collect();
    let expected = sent.clone();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.write_all(&sent).expect("sent");
        // The kernel's list of connections has the bytes that the other side has not taken yet.
        eventually("an empty queue", || unsent(port) == 0);
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("a reset at the end");
    });
    let mut program = Program::start(local("api.test").address);
    let (_, mut guest) = program.guest(&["127.0.0.1/32"]);
    let mut records = program.records();
    let flow = guest.connect(LOCAL, port).expect("a connection");
    // The guest's buffer takes only a part before it reads.
    guest.until("the server's reset", |_| server.is_finished().then_some(()));
    server.join().expect("no panic");
    assert!(guest.receive(flow, expected.len()) == expected, "bytes differ");
    guest.until("a reset", |guest| guest.is_closed(flow).then_some(()));
    records.next();
    let record = records.next();
    assert_eq!(
        (record.reason, record.received_bytes),
        (Some(Reason::Reset), expected.len() as u64)
    );
}

/// Bytes that a server on this port has sent and its clients' kernels have not taken.
fn unsent(port: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
    let from_port = format!(":{port:04X}");
    let queues = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let queue = fields.get(4)?.split_once(':')?.0;
        (fields[1].ends_with(&from_port) && fields[3] == "01")
            .then(|| u64::from_str_radix(queue, 16).expect("a number"))
    });
    queues.sum()
}
