//! A channel that is connected anew for each client.

use super::*;
use std::path::Path;

/// A directory of the test's own.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("forkd-bridge-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).expect("a directory");
        Dir(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a name").into()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn connect(path: &str) -> UnixStream {
    let stream = UnixStream::connect(Path::new(path)).expect("it listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    stream
}

fn say(mut stream: &UnixStream, word: &[u8]) {
    stream.write_all(word).expect("somebody listens");
}

fn hear(mut stream: &UnixStream, word: &[u8]) {
    let mut heard = vec![0; word.len()];
    stream.read_exact(&mut heard).expect("somebody speaks");
    assert_eq!(heard, word);
}

fn is_hung_up(mut stream: &UnixStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0))
}

#[test]
fn each_client_has_a_connection_of_its_own_and_hang_ups_go_both_ways() {
    let dir = Dir::new("dial");
    let device = UnixListener::bind(dir.path("device")).expect("listen");
    let bridge = Bridge::dialling(&dir.path("device"), &dir.path("client")).expect("a bridge");
    let first = connect(&dir.path("client"));
    let (theirs, _) = device.accept().expect("a connection");
    say(&first, b"CONNECT 1\n");
    hear(&theirs, b"CONNECT 1\n");
    say(&theirs, b"OK 2\n");
    // Its last word arrives although it hangs up at once.
    drop(theirs);
    hear(&first, b"OK 2\n");
    assert!(is_hung_up(&first));

    let second = connect(&dir.path("client"));
    let (theirs, _) = device.accept().expect("a connection");
    say(&second, b"more");
    drop(second);
    hear(&theirs, b"more");
    assert!(is_hung_up(&theirs));

    // The next client takes the last one's place.
    let third = connect(&dir.path("client"));
    let (of_third, _) = device.accept().expect("a connection");
    let fourth = connect(&dir.path("client"));
    let (of_fourth, _) = device.accept().expect("a connection");
    assert!(is_hung_up(&third) && is_hung_up(&of_third));
    say(&fourth, b"x");
    hear(&of_fourth, b"x");

    // While the gate is shut nothing comes through, neither bytes nor a new client.
    let gate = bridge.shut();
    assert!(gate.is_quiet());
    say(&fourth, b"y");
    let fifth = connect(&dir.path("client"));
    std::thread::sleep(Duration::from_millis(20));
    of_fourth.set_nonblocking(true).expect("a flag");
    let nothing = (&of_fourth).read(&mut [0]).expect_err("nothing has come");
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    device.set_nonblocking(true).expect("a flag");
    assert!(device.accept().is_err());
    drop(gate);
    device.set_nonblocking(false).expect("a flag");
    let (of_fifth, _) = device.accept().expect("a connection");
    say(&of_fifth, b"z");
    hear(&fifth, b"z");

    drop(device);
    drop(of_fifth);
    assert!(is_hung_up(&fifth));
    assert!(
        is_hung_up(&connect(&dir.path("client"))),
        "nobody answers there any more"
    );
}
