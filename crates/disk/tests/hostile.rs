//! Clients that mean harm. Whatever one does, it is answered or hung up on, and the disks of others go on.

mod support;

use serde_json::json;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use support::{BLOCK, Client, READ, Server, TRIM, WRITE, WRITE_ZEROES, read_bytes};

const EINVAL: u32 = 22;
const PAYLOAD_BYTES_MAX: usize = 2 << 20;
const BLOCKS: usize = 4096;

/// True if the server hangs up, whatever it says before. It may do so before it has read everything.
fn is_hung_up(mut stream: UnixStream) -> bool {
    let read = stream.read_to_end(&mut Vec::new());
    read.is_ok() || read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[test]
fn a_request_that_was_not_offered_is_refused_and_the_next_one_served() {
    let mut server = Server::start();
    server.open("disk", BLOCKS, &json!([]));
    let mut client = server.connect("disk").expect("connected");
    assert_eq!(client.size, (BLOCKS * BLOCK) as u64);
    client.write(7, &[7; 2 * BLOCK]).expect("written");
    for (command, block, length) in [
        (READ, BLOCKS, BLOCK),
        (READ, 0, 100),
        (READ, 0, 0),
        (READ, 0, PAYLOAD_BYTES_MAX + BLOCK),
        (READ, 0, u32::MAX as usize),
        (TRIM, BLOCKS - 1, 2 * BLOCK),
        (TRIM, 0, u32::MAX as usize),
        (WRITE_ZEROES, usize::MAX / BLOCK, BLOCK),
        (3, 0, 0),
        (5, 0, BLOCK),
        (999, 0, BLOCK),
    ] {
        assert_eq!(
            client.ask(command, block, length, &[]).expect("a reply"),
            EINVAL,
            "{command} {block} {length}"
        );
    }
    // The content of a write that is refused is passed over.
    assert_eq!(
        client
            .ask(WRITE, BLOCKS - 1, 2 * BLOCK, &[1; 2 * BLOCK])
            .expect("a reply"),
        EINVAL
    );
    assert_eq!(client.ask(WRITE, 0, 100, &[1; 100]).expect("a reply"), EINVAL);
    assert_eq!(client.ask(WRITE, 0, 0, &[]).expect("a reply"), EINVAL);
    let content = client.read(6, 4).expect("read");
    assert_eq!(content, [[0; BLOCK], [7; BLOCK], [7; BLOCK], [0; BLOCK]].concat());
}

#[test]
fn a_client_that_cannot_be_understood_is_hung_up_on_and_no_other() {
    let mut server = Server::start();
    server.open("disk", BLOCKS, &json!([]));
    let mut honest = server.connect("disk").expect("connected");
    honest.write(0, &[3; BLOCK]).expect("written");

    let mut too_long = server.connect("disk").expect("connected");
    too_long.send(WRITE, 0, PAYLOAD_BYTES_MAX + 1, &[]).expect("sent");
    assert!(is_hung_up(too_long.stream));

    let mut noise = server.connect("disk").expect("connected");
    noise.stream.write_all(&[0xa5; 28]).expect("sent");
    assert!(is_hung_up(noise.stream));

    // A write whose content never comes.
    let mut half = server.connect("disk").expect("connected");
    half.send(WRITE, 0, BLOCK, &[9; 100]).expect("sent");
    drop(half);

    for greeting in [
        &[0xff; 4][..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0, 0, 0, 3, 1, 2, 3, 4, 5, 6, 7, 8],
    ] {
        let mut stream = UnixStream::connect(server.vmm_socket()).expect("connected");
        stream.write_all(greeting).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("shut down");
        assert!(is_hung_up(stream));
    }
    assert_eq!(honest.read(0, 1).expect("read"), [3; BLOCK]);
}

#[test]
fn a_client_that_does_not_read_its_replies_delays_nobody() {
    let mut server = Server::start();
    server.open("disk", BLOCKS, &json!([]));
    let mut deaf = server.connect("disk").expect("connected");
    deaf.stream
        .set_write_timeout(Some(std::time::Duration::from_millis(200)))
        .expect("a timeout");
    // Until neither side of the connection has room.
    while deaf.send(READ, 0, PAYLOAD_BYTES_MAX, &[]).is_ok() {}
    let mut honest = server.connect("disk").expect("connected");
    honest.write(0, &[3; BLOCK]).expect("written");
    assert_eq!(honest.read(0, 1).expect("read"), [3; BLOCK]);
    // The connection of the deaf client ends with its disk.
    server.request(json!({ "op": "close", "key": "disk" })).expect("closed");
    assert!(is_hung_up(deaf.stream));
}

#[test]
fn a_disk_is_served_to_one_process_only() {
    let mut server = Server::start();
    server.open("disk", BLOCKS, &json!([]));
    server.connect("other").map(drop).expect_err("there is no such disk");
    let connections: Vec<Client> = (0..4).map(|_| server.connect("disk").expect("connected")).collect();
    server.connect("disk").map(drop).expect_err("it has enough connections");
    drop(connections);
    // The VMM is another process, which shows the same key.
    let other = json!({ "op": "open", "key": "disk", "size_bytes": BLOCKS * BLOCK, "layers": [], "pid": 1 });
    server.request(other).expect("adopted");
    server.connect("disk").map(drop).expect_err("it is another's now");
}

#[test]
fn a_controller_that_cannot_be_understood_gets_an_error_or_is_hung_up_on() {
    let mut server = Server::start();
    for request in [
        json!({ "op": "nothing" }),
        json!({ "op": "open", "key": "../../x", "size_bytes": BLOCK, "layers": [], "pid": null }),
        json!({ "op": "open", "key": "", "size_bytes": BLOCK, "layers": [], "pid": null }),
        json!({ "op": "open", "key": "k", "size_bytes": 100, "layers": [], "pid": null }),
        json!({ "op": "open", "key": "k", "size_bytes": 1u64 << 60, "layers": [], "pid": null }),
        json!({ "op": "open", "key": "k", "size_bytes": BLOCK, "layers": ["sha256:../../x"], "pid": null }),
        json!({ "op": "open", "key": "k", "size_bytes": BLOCK, "layers": [format!("sha256:{}", "0".repeat(64))], "pid": null }),
        json!({ "op": "open", "key": "k", "size_bytes": BLOCK, "layers": ["disk:1"], "pid": null }),
        json!({ "op": "seal", "key": "k", "epoch": 1 }),
        json!({ "op": "merge", "layers": [] }),
        json!({ "op": "import", "path": "/dev/null/x", "size_bytes": BLOCK }),
    ] {
        server.request(request.clone()).expect_err(&request.to_string());
    }
    let held = server.request(json!({ "op": "inventory" })).expect("answered");
    assert_eq!((&held["disks"], &held["layers"]), (&json!([]), &json!([])));
    let mut stream = UnixStream::connect(server.dir.join("run/disk.sock")).expect("connected");
    let _ = stream.write_all(&vec![b'x'; 2 << 20]);
    read_bytes(&mut stream, 1).expect_err("a line without an end is hung up on");
}
