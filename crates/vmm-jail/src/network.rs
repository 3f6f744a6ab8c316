//! The network wire of a VMM: a pair of datagram sockets, one Ethernet frame per datagram. QEMU has one end. The network
//! process has the other, and knows the wire by a key until it is bound to a sandbox.

use forkd_linux_sys::{fds, net};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Time in which the network process takes the wire.
const PATIENCE: Duration = Duration::from_secs(5);
const REPLY_BYTES_MAX: u64 = 1024;

/// Makes the wire, gives the network process at `socket` its end, and returns QEMU's.
pub fn attach(socket: &Path, key: &str) -> io::Result<OwnedFd> {
    let (vmm, other) = net::datagram_pair()?;
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = serde_json::json!({ "id": 1, "op": "attach", "key": key });
    fds::send_with_fds(&stream, format!("{request}\n").as_bytes(), &[other.as_fd()])?;
    taken(&stream)?;
    Ok(vmm)
}

/// Waits for the answer, a line of JSON.
fn taken(stream: &UnixStream) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(stream.take(REPLY_BYTES_MAX)).read_line(&mut line)?;
    let reply: serde_json::Value = serde_json::from_str(&line)?;
    if reply["kind"] == "ok" {
        return Ok(());
    }
    let why = reply["error"]["message"].as_str().unwrap_or("no reason was given");
    Err(io::Error::other(format!("the network process refuses it: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    /// Attaches to a peer that answers `reply`. Returns both ends of the wire.
    fn attach_to(name: &str, reply: &'static str) -> (io::Result<OwnedFd>, Vec<OwnedFd>) {
        let path = std::env::temp_dir().join(format!("forkd-jail-{name}-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).expect("bound");
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("called");
            let (mut request, mut ends) = ([0; 256], Vec::new());
            let read = fds::receive_with_fds(&stream, &mut request, &mut ends).expect("read");
            assert_eq!(&request[..read], b"{\"id\":1,\"key\":\"k1\",\"op\":\"attach\"}\n");
            stream.write_all(reply.as_bytes()).expect("answered");
            ends
        });
        let attached = attach(&path, "k1");
        std::fs::remove_file(path).expect("removed");
        (attached, peer.join().expect("the peer ended"))
    }

    #[test]
    fn a_frame_crosses_the_wire_whole() {
        let (attached, mut ends) = attach_to("whole", "{\"kind\":\"ok\",\"id\":1}\n");
        let vmm = UnixDatagram::from(attached.expect("attached"));
        let other = UnixDatagram::from(ends.pop().expect("one descriptor came"));
        let frame = vec![7; 65_534];
        vmm.send(&frame).expect("sent");
        let mut received = vec![0; 70_000];
        let bytes = other.recv(&mut received).expect("received");
        assert_eq!(received[..bytes], frame);
    }

    #[test]
    fn a_refusal_says_why_and_a_peer_that_hangs_up_is_an_error() {
        let refusal = "{\"kind\":\"err\",\"id\":1,\"error\":{\"message\":\"too many wires\"}}\n";
        let (refused, _ends) = attach_to("refused", refusal);
        assert!(refused.expect_err("refused").to_string().contains("too many wires"));
        let (hung_up, _ends) = attach_to("hung-up", "");
        assert!(hung_up.is_err());
    }
}
