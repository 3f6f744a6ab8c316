//! Channels with ends that hang up, read nothing, or reconnect.

use super::*;
use std::path::Path;

/// A directory for one test.
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
    // The last bytes arrive even if the sender hangs up at once.
    drop(theirs);
    hear(&first, b"OK 2\n");
    assert!(is_hung_up(&first));

    let second = connect(&dir.path("client"));
    let (theirs, _) = device.accept().expect("a connection");
    say(&second, b"more");
    drop(second);
    hear(&theirs, b"more");
    assert!(is_hung_up(&theirs));

    // A new client replaces the last one.
    let third = connect(&dir.path("client"));
    let (of_third, _) = device.accept().expect("a connection");
    let fourth = connect(&dir.path("client"));
    let (of_fourth, _) = device.accept().expect("a connection");
    assert!(is_hung_up(&third) && is_hung_up(&of_third));
    say(&fourth, b"x");
    hear(&of_fourth, b"x");

    // While the gate is shut nothing passes, neither bytes nor a new client.
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

/// Processor time of this process's thread with that name.
fn busy(thread: &str) -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("own threads").flatten();
    let mut ticks = 0;
    for task in tasks {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let Some((name, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        if name.ends_with(thread) {
            let fields = rest.split_whitespace();
            ticks += fields
                .skip(11)
                .take(2)
                .map(|field| field.parse::<u64>().expect("ticks"))
                .sum::<u64>();
        }
    }
    // Linux always reports 100 ticks per second to programs.
    Duration::from_millis(ticks * 10)
}

/// Leaves a bridge idle for a while, and returns the processor time that it used.
fn at_rest(body: impl FnOnce()) -> Duration {
    body();
    let before = busy("bridge");
    std::thread::sleep(Duration::from_millis(600));
    busy("bridge") - before
}

/// Writes until nothing more is accepted for a while.
fn fill(mut stream: &UnixStream) {
    stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .expect("a timeout");
    while stream.write(&[7; 1 << 16]).is_ok() {}
}

#[test]
fn ends_that_hang_up_while_nothing_is_read_cost_no_processor_time() {
    // A single test for the two directions, since each measures the threads of that name.
    let dir = Dir::new("hang-up");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let bridge = Bridge::over(ours, &dir.path("client")).expect("a bridge");
    let client = connect(&dir.path("client"));
    fill(&client);
    let used = at_rest(|| drop(client));
    assert!(
        used < Duration::from_millis(100),
        "{used:?} after the client has hung up"
    );
    drop(bridge);
    drop(theirs);

    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let bridge = Bridge::over(ours, &dir.path("client")).expect("a bridge");
    let client = connect(&dir.path("client"));
    // Once a byte arrives, the bridge has accepted this client.
    say(&theirs, b"x");
    hear(&client, b"x");
    fill(&theirs);
    let used = at_rest(|| drop(theirs));
    assert!(used < Duration::from_millis(100), "{used:?} after the VMM has hung up");
    // The VMM's bytes still arrive, and then the end.
    let mut heard = Vec::new();
    (&client).read_to_end(&mut heard).expect("all of it");
    assert!(heard.len() > BUFFER_BYTES, "{} bytes", heard.len());
    drop(bridge);
}
