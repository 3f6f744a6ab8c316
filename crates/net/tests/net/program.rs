//! A running forkd-net, and the words to ask it with.

use crate::guest::Guest;
use forkd_linux_sys::fds;
use forkd_linux_sys::net::datagram_pair;
use forkd_protocol::net::{
    Answer, Bind, Fault, FlowRecord, Inherited, Op, Policy, Reply, Request, Rule, Target, Transport, Verdict, WireStats,
};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

static COUNT: AtomicU32 = AtomicU32::new(0);

pub struct Program {
    dir: PathBuf,
    keeper: Child,
    lines: BufReader<UnixStream>,
}

/// Waits until something is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "no end of waiting: {what}");
        std::thread::yield_now();
    }
}

/// A distinct key.
pub fn key() -> String {
    format!("{:032x}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A policy of rules such as `api.test:443`, `*.test`, `127.0.0.1/32`, `udp api.test`, and `-evil.test` to deny.
pub fn policy(rules: &[&str]) -> Policy {
    let rule = |text: &&str| {
        let (verdict, rest) = text
            .strip_prefix('-')
            .map_or((Verdict::Allow, *text), |rest| (Verdict::Deny, rest));
        let (transport, rest) = match rest.strip_prefix("udp ") {
            Some(rest) => (Some(Transport::Udp), rest),
            None => (Some(Transport::Tcp), rest),
        };
        let (to, port) = rest
            .split_once(':')
            .map_or((rest, None), |(to, port)| (to, port.parse().ok()));
        let to = match to.strip_prefix("*.") {
            _ if to == "any" => Target::Any,
            Some(name) => Target::Below { name: name.into() },
            None if to.contains('/') => Target::Cidr { cidr: to.into() },
            None => Target::Name { name: to.into() },
        };
        Rule {
            text: text.to_string(),
            verdict,
            to,
            ports: port.map(|port: u16| (port, port)).into_iter().collect(),
            transport,
        }
    };
    Policy {
        rules: rules.iter().map(rule).collect(),
    }
}

impl Program {
    pub fn start(resolver: SocketAddr) -> Program {
        let name = format!(
            "forkd-net-test-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).expect("a directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_forkd-net"));
        command
            .arg("--run-dir")
            .arg(&dir)
            .args(["--resolver", &resolver.to_string()]);
        let keeper = command.spawn().expect("forkd-net");
        let lines = BufReader::new(connect(&dir.join("net.sock")));
        Program { dir, keeper, lines }
    }

    /// Kills the worker, and connects to the next one.
    pub fn kill_worker(&mut self) {
        let pid = self.worker_pid();
        let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
        assert!(killed.expect("kill").success());
        // Until the keeper has noticed, the next connection may be the last one's.
        eventually("the end of the worker", || {
            !PathBuf::from(format!("/proc/{pid}")).exists()
        });
        self.reconnect();
        assert_ne!(self.worker_pid(), pid);
    }

    fn reconnect(&mut self) {
        self.lines = BufReader::new(self.connection());
    }

    pub fn connection(&self) -> UnixStream {
        connect(&self.dir.join("net.sock"))
    }

    /// The lines of the log about faults of the program.
    pub fn faults(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.dir.join("net.log")).expect("a log");
        let faults = log.lines().filter(|line| line.contains("panic"));
        faults.map(str::to_owned).collect()
    }

    pub fn kill_keeper(&mut self) {
        // An answer shows that the worker has all that it needs of the keeper.
        self.worker_pid();
        self.keeper.kill().expect("killed");
        self.keeper.wait().expect("ended");
    }

    /// How a second program in the same directory ends.
    pub fn second(&self) -> ExitStatus {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forkd-net"));
        command.arg("--run-dir").arg(&self.dir).status().expect("forkd-net")
    }

    pub fn keeper_pid(&self) -> u32 {
        self.keeper.id()
    }

    /// The process that serves the wires.
    pub fn worker_pid(&mut self) -> u32 {
        match self.ask(Op::Hello) {
            Ok(Answer::Hello { pid, .. }) => pid,
            other => panic!("{other:?}"),
        }
    }

    pub fn ask(&mut self, op: Op) -> Result<Answer, Fault> {
        self.send(op, None);
        receive(&mut self.lines)
    }

    pub fn send(&mut self, op: Op, fd: Option<OwnedFd>) {
        let mut line = serde_json::to_vec(&Request { id: 1, op }).expect("plain data");
        line.push(b'\n');
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
        fds::send_with_fds(self.lines.get_ref(), &line, &fds).expect("sent");
    }

    /// Attaches a new wire. Returns its key and the guest's end.
    pub fn attach(&mut self) -> (String, OwnedFd) {
        let key = key();
        let (ours, theirs) = datagram_pair().expect("a pair");
        self.send(Op::Attach { key: key.clone() }, Some(theirs));
        receive(&mut self.lines).expect("attached");
        (key, ours)
    }

    pub fn bind(&mut self, key: &str, policy: Policy, inherited: Option<Inherited>) {
        let bind = Bind {
            key: key.into(),
            sandbox: format!("sb-{key}"),
            policy,
            inherited,
        };
        self.ask(Op::Bind(bind)).expect("bound");
    }

    /// A guest whose sandbox has this policy.
    pub fn guest(&mut self, rules: &[&str]) -> (String, Guest) {
        let (key, wire) = self.attach();
        self.bind(&key, policy(rules), None);
        (key, Guest::new(wire))
    }

    pub fn mark(&mut self, key: &str) -> Inherited {
        match self.ask(Op::Mark { key: key.into() }) {
            Ok(Answer::Marked { inherited }) => inherited,
            other => panic!("{other:?}"),
        }
    }

    pub fn stats(&mut self, key: &str) -> WireStats {
        match self.ask(Op::Stats { key: key.into() }) {
            Ok(Answer::Stats(stats)) => stats,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the counters of a wire are as wanted.
    pub fn await_stats(&mut self, key: &str, wanted: impl Fn(&WireStats) -> bool) -> WireStats {
        let end = Instant::now() + PATIENCE;
        loop {
            let stats = self.stats(key);
            if wanted(&stats) {
                return stats;
            }
            assert!(Instant::now() < end, "{stats:?}");
            std::thread::yield_now();
        }
    }

    /// The flow records of all sandboxes from the first on.
    pub fn records(&self) -> Records {
        let stream = self.connection();
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        let mut lines = BufReader::new(stream);
        let mut line = serde_json::to_vec(&Request { id: 2, op: Op::Flows }).expect("plain data");
        line.push(b'\n');
        std::io::Write::write_all(lines.get_mut(), &line).expect("sent");
        receive(&mut lines).expect("flows");
        Records { lines }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // A test that failed may have left anything behind.
        if let Ok(mut stream) = UnixStream::connect(self.dir.join("net.sock")) {
            let _ = std::io::Write::write_all(&mut stream, b"{\"id\":9,\"op\":\"shutdown\"}\n");
            let _ = std::io::Read::read(&mut stream, &mut [0; 100]);
        }
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub struct Records {
    lines: BufReader<UnixStream>,
}

impl Records {
    /// The next record.
    pub fn next(&mut self) -> FlowRecord {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a record in time");
        match serde_json::from_str(&line).expect("a reply") {
            Reply::Event { event, .. } => event,
            other => panic!("{other:?}"),
        }
    }
}

/// Reads the next answer.
pub fn receive(lines: &mut BufReader<UnixStream>) -> Result<Answer, Fault> {
    let mut line = String::new();
    lines.read_line(&mut line).expect("a line");
    match serde_json::from_str(&line).expect("a reply") {
        Reply::Ok { result, .. } => Ok(result),
        Reply::Err { error, .. } => Err(error),
        Reply::Event { event, .. } => panic!("{event:?}"),
    }
}

fn connect(path: &std::path::Path) -> UnixStream {
    let end = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::yield_now();
    }
}
