//! Connections from the host to a port of the guest.

use crate::internet::local;
use crate::program::{Program, receive};
use forkd_protocol::net::{Answer, Direction, FaultCode, Op, Phase, Request};
use smoltcp::socket::tcp::State;
use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;

fn dial(program: &Program, key: &str, port: u16) -> BufReader<UnixStream> {
    let mut stream = program.connection();
    let op = Op::Dial { key: key.into(), port };
    let mut line = serde_json::to_vec(&Request { id: 5, op }).expect("plain data");
    line.push(b'\n');
    stream.write_all(&line).expect("sent");
    BufReader::new(stream)
}

#[test]
fn a_caller_reaches_a_listening_port_and_no_other() {
    let mut program = Program::start(local("api.test").address);
    let mut records = program.records();
    // No rule is needed: the host calls.
    let (key, mut guest) = program.guest(&[]);
    let listener = guest.listen(8_000);
    let mut caller = dial(&program, &key, 8_000);
    guest.until("a connection", |guest| {
        (guest.tcp(listener).state() == State::Established).then_some(())
    });
    let answer = std::thread::spawn(move || (receive(&mut caller), caller));
    guest.until("an answer", |_| answer.is_finished().then_some(()));
    let (answer, mut caller) = answer.join().expect("no panic");
    assert!(matches!(answer, Ok(Answer::Done)), "{answer:?}");
    let record = records.next();
    assert_eq!(
        (record.phase, record.direction, record.port),
        (Phase::Opened, Direction::In, 8_000)
    );

    let sent: Vec<u8> = (0..1 << 20).map(|at: u32| (at ^ at >> 8) as u8).collect();
    let expected = sent.clone();
    let theirs = std::thread::spawn(move || {
        let mut writer = caller.get_ref().try_clone().expect("a clone");
        let writing = std::thread::spawn(move || {
            writer.write_all(&sent).expect("written");
            writer.shutdown(std::net::Shutdown::Write).expect("half closed");
        });
        let mut bytes = Vec::new();
        caller.read_to_end(&mut bytes).expect("read");
        writing.join().expect("no panic");
        bytes
    });
    let mut received = 0;
    while received < expected.len() {
        let part = (expected.len() - received).min(32 << 10);
        let bytes = guest.receive(listener, part);
        assert!(bytes == expected[received..received + part], "bytes differ");
        guest.send(listener, &bytes);
        received += part;
    }
    guest.until("the caller's end", |guest| {
        (guest.tcp(listener).state() == State::CloseWait).then_some(())
    });
    guest.tcp(listener).close();
    guest.until("the thread", |_| theirs.is_finished().then_some(()));
    assert!(theirs.join().expect("no panic") == expected, "an echo differs");

    let mut refused = dial(&program, &key, 8_001);
    let answer = std::thread::spawn(move || receive(&mut refused));
    guest.until("a refusal", |_| answer.is_finished().then_some(()));
    assert_eq!(
        answer.join().expect("no panic").expect_err("refused").code,
        FaultCode::Refused
    );
    let mut unknown = dial(&program, "nobody", 8_000);
    assert_eq!(receive(&mut unknown).expect_err("unknown").code, FaultCode::UnknownKey);
}
