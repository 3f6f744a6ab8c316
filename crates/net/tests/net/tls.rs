//! A TLS client must ask for the name that it connected to.

use crate::internet::{Echo, Known, Resolver};
use crate::program::Program;
use forkd_protocol::net::{Phase, Reason};
use std::net::Ipv4Addr;

/// A ClientHello in one record.
fn hello(server_name: Option<&str>, is_encrypted: bool) -> Vec<u8> {
    let vector = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let mut extensions = Vec::new();
    if let Some(name) = server_name {
        let entry = [&[0][..], &vector(name.as_bytes())].concat();
        extensions.extend([&[0, 0][..], &vector(&vector(&entry))].concat());
    }
    if is_encrypted {
        extensions.extend([&[0xfe, 0x0d][..], &vector(&[0; 40])].concat());
    }
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(vector(&extensions));
    let message = [&[1, 0][..], &vector(&body)].concat();
    [&[22, 3, 1][..], &vector(&message)].concat()
}

/// The same ClientHello over two records.
fn split(hello: &[u8], at: usize) -> Vec<u8> {
    let (one, two) = hello[5..].split_at(at);
    let record = |part: &[u8]| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
    [record(one), record(two)].concat()
}

#[test]
fn only_the_right_server_name_gets_through() {
    let address = Ipv4Addr::new(127, 83, 0, 1);
    let resolver = Resolver::start(&[("api.test", Known::At(vec![address]))]);
    let mut program = Program::start(resolver.address);
    let mut records = program.records();
    let (_, mut guest) = program.guest(&["api.test", "127.83.0.1/32"]);
    let (any, https) = (Echo::start("127.83.0.1:0"), Echo::start("127.83.0.1:443"));
    let right = hello(Some("api.test"), false);
    let allowed = [right.clone(), split(&right, 3), hello(Some("API.test"), false)];
    let denied = [
        (hello(Some("evil.test"), false), Reason::SniMismatch),
        (split(&hello(Some("evil.test"), false), 60), Reason::SniMismatch),
        (hello(None, false), Reason::SniMissing),
        (hello(Some("api.test"), true), Reason::SniEncrypted),
        ([&[22, 3, 1, 0, 4][..], &[2, 0, 0, 0]].concat(), Reason::NotTls),
    ];
    for server in [&any, &https] {
        for bytes in &allowed {
            let flow = guest.connect_to("api.test", server.port()).expect("a connection");
            assert_eq!(records.next().phase, Phase::Opened);
            // Byte by byte at first: a client may be slow.
            guest.send(flow, &bytes[..1]);
            guest.send(flow, &bytes[1..7]);
            guest.send(flow, &bytes[7..]);
            assert_eq!(guest.receive(flow, bytes.len()), *bytes);
            guest.tcp(flow).abort();
            guest.poll();
            assert_eq!(records.next().phase, Phase::Closed);
        }
        let before = server.bytes();
        for (bytes, reason) in &denied {
            let flow = guest.connect_to("api.test", server.port()).expect("a connection");
            assert_eq!(records.next().phase, Phase::Opened);
            guest.send(flow, bytes);
            guest.until("a reset", |guest| guest.is_closed(flow).then_some(()));
            let record = records.next();
            assert_eq!((record.phase, record.reason), (Phase::Closed, Some(*reason)));
            assert_eq!(record.sent_bytes, 0);
        }
        assert_eq!(server.bytes(), before);
    }
    // Another protocol is another protocol, but not on the port of HTTPS.
    let plain = b"GET / HTTP/1.1\r\n\r\n";
    let flow = guest.connect_to("api.test", any.port()).expect("a connection");
    guest.send(flow, plain);
    assert_eq!(guest.receive(flow, plain.len()), plain);
    records.next();
    let flow = guest.connect_to("api.test", 443).expect("a connection");
    records.next();
    guest.send(flow, plain);
    guest.until("a reset", |guest| guest.is_closed(flow).then_some(()));
    assert_eq!(records.next().reason, Some(Reason::NotTls));
}
