//! Datagrams.

use crate::internet::{Known, Resolver};
use crate::program::Program;
use forkd_protocol::net::{Phase, Reason, Transport};
use std::net::{Ipv4Addr, UdpSocket};

#[test]
fn datagrams_go_where_a_rule_allows_and_nowhere_else() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let port = server.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while let Ok((length, from)) = server.recv_from(&mut buffer) {
            let _ = server.send_to(&buffer[..length], from);
        }
    });
    let resolver = Resolver::start(&[("api.test", Known::At(vec![Ipv4Addr::LOCALHOST]))]);
    let mut program = Program::start(resolver.address);
    let mut records = program.records();
    let (key, mut guest) = program.guest(&["udp api.test", "udp 127.0.0.1/32"]);
    let name = guest.resolve("api.test").expect("an address");
    assert_eq!(guest.exchange(name, port, b"by name"), b"by name");
    let record = records.next();
    assert_eq!((record.phase, record.transport), (Phase::Opened, Some(Transport::Udp)));
    assert_eq!(
        (record.name.as_deref(), record.address),
        (Some("api.test"), Ipv4Addr::LOCALHOST)
    );
    assert_eq!(guest.exchange(Ipv4Addr::LOCALHOST, port, b"by address"), b"by address");
    assert_eq!(records.next().name, None);
    // A QUIC client would not show the name that it asks for.
    guest.datagram(name, 443, b"quic");
    let record = records.next();
    assert_eq!((record.phase, record.reason), (Phase::Denied, Some(Reason::Quic)));
    guest.datagram(Ipv4Addr::new(8, 8, 8, 8), 53, b"a query to another resolver");
    assert_eq!(records.next().reason, Some(Reason::NoRule));
    // The rules are about UDP.
    assert!(guest.connect(name, port).is_none());
    assert_eq!(records.next().reason, Some(Reason::NoRule));
    assert_eq!(program.stats(&key).flows_open, 2);
}
