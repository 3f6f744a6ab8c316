//! `forkd-page-server` as its users see it: a program with a control socket, and VMMs that are processes of their own and look at
//! every page. Also, what becomes of a VMM when the program dies.

use forkd_vmm_stand_in::{Vmm, pattern};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const PAGE: usize = 4096;
const PAGES: u64 = 1024;
const PROGRAM: &str = env!("CARGO_BIN_EXE_forkd-page-server");

struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("forkd-serve-{}-{serial}", std::process::id()));
        std::fs::create_dir(&path).expect("a directory");
        Dir(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("plain").to_owned()
    }

    fn template(&self) -> String {
        let bytes: Vec<u8> = (0..PAGES).flat_map(pattern::bytes).collect();
        std::fs::write(self.0.join("memory"), bytes).expect("a file");
        self.path("memory")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The program, and its control socket.
struct Server {
    child: Child,
    dir: PathBuf,
}

impl Server {
    fn start(dir: &Dir, arguments: &[&str]) -> Server {
        Server::start_with(dir, arguments, Stdio::null())
    }

    fn start_with(dir: &Dir, arguments: &[&str], input: Stdio) -> Server {
        let mut command = Command::new(PROGRAM);
        command.arg("--socket-dir").arg(&dir.0).args(arguments);
        let mut child = command.stdin(input).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        output.read_line(&mut line).expect("it says when it is ready");
        assert!(line.contains("control.sock"), "{line:?}");
        Server {
            child,
            dir: dir.0.clone(),
        }
    }

    fn ask(&self, request: &Value) -> Value {
        let mut stream = UnixStream::connect(self.dir.join("control.sock")).expect("it listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        writeln!(stream, "{request}").expect("it is sent");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("an answer");
        serde_json::from_str(&line).expect(&line)
    }

    fn fork(&self, name: &str, populate: bool) -> Vmm {
        self.fork_by(&json!({ "op": "fork", "name": name, "populate": populate }))
    }

    fn fork_by(&self, request: &Value) -> Vmm {
        let answer = self.ask(request);
        let socket = answer["socket"].as_str().unwrap_or_else(|| panic!("{answer}"));
        let mut vmm = Vmm::start(Path::new(socket), &["--regions", "3,1"]).expect("a stand-in");
        vmm.answer().expect("it is ready");
        vmm
    }

    fn wait_until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..2000 {
            let stats = self.ask(&json!({ "op": "stats" }));
            if condition(&stats) {
                return stats;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("waited too long until {what}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It fails only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn verify(vmm: &mut Vmm) {
    let answer = vmm.order(&format!("verify 0 {PAGES} 3")).expect("an answer");
    assert_eq!(answer["bad"], 0, "{answer}");
}

#[test]
fn forks_of_a_file_are_served_recorded_prefetched_and_drained() {
    let dir = Dir::new();
    let record = dir.path("record");
    // What is no record is told of and made anew.
    std::fs::write(&record, "nonsense").expect("a file");
    let mut server = Server::start(
        &dir,
        &["--template", &dir.template(), "--record", &record, "--forks", "3"],
    );
    // It is in memory.
    std::fs::remove_file(dir.path("memory")).expect("it was there");

    let mut first = server.fork("first", false);
    verify(&mut first);
    drop(first);
    server.wait_until("the first has ended", |stats| stats["forks"] == json!([]));
    assert_eq!(&std::fs::read(&record).expect("it is written")[..4], b"FKPO");

    let mut second = server.fork("second", false);
    let stats = server.wait_until("it is prefetched", |stats| stats["total"]["prefetched"] == PAGES);
    assert_eq!(stats["forks"][0]["pid"], second.pid());
    verify(&mut second);
    let after = server.ask(&json!({ "op": "stats" }));
    assert_eq!(
        after["forks"][0]["stats"]["faults"], stats["forks"][0]["stats"]["faults"],
        "nothing is missing"
    );

    assert_eq!(server.ask(&json!({ "op": "drain" }))["ok"], true);
    let refused = server.ask(&json!({ "op": "fork", "name": "late" }));
    assert!(
        refused["error"]
            .as_str()
            .is_some_and(|error| error.contains("draining")),
        "{refused}"
    );
    verify(&mut second);
    drop(second);
    assert_eq!(server.child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_fork_with_refreshes_differs_from_the_template_in_those_pages_alone() {
    let dir = Dir::new();
    let server = Server::start(&dir, &["--template", &dir.template()]);
    let refresh = json!([
        { "at": 5 * PAGE + 8, "bytes": 32, "op": "mix" },
        { "at": 700 * PAGE, "bytes": 8, "op": "count" },
        // No magic stands there.
        { "at": 9 * PAGE, "bytes": 24, "op": "page" },
    ]);
    let mut own = server.fork_by(&json!({ "op": "fork", "name": "own", "refresh": refresh }));
    let answer = own.order(&format!("verify 0 {PAGES} 3")).expect("an answer");
    assert_eq!(answer["bad"], 2, "{answer}");
    // Of the others nobody sees that.
    verify(&mut server.fork("other", false));
    let outside = json!([{ "at": PAGES as usize * PAGE - 4, "bytes": 8, "op": "count" }]);
    let refused = server.ask(&json!({ "op": "fork", "name": "outside", "refresh": outside }));
    assert!(refused["error"].to_string().contains("outside of memory"), "{refused}");
}

#[test]
fn a_template_on_standard_input_is_served_while_it_comes() {
    let dir = Dir::new();
    let (theirs, mut feed) = UnixStream::pair().expect("a pair");
    let arguments = ["--template", "-", "--mem-mib", "4"];
    let server = Server::start_with(&dir, &arguments, OwnedFd::from(theirs).into());
    let bytes: Vec<u8> = (0..PAGES).flat_map(pattern::bytes).collect();
    feed.write_all(&bytes[..100 * PAGE]).expect("it is read");
    let mut fork = server.fork("first", false);
    assert_eq!(fork.order("verify 0 100 2").expect("pages")["bad"], 0);
    fork.begin("verify 100 924 4").expect("it begins");
    let stats = server.wait_until("a page is waited for", |stats| stats["total"]["parked"] != 0);
    assert_eq!(
        stats["template"],
        json!({ "pages": PAGES, "arrived": 100, "broken": null })
    );
    feed.write_all(&bytes[100 * PAGE..]).expect("it is read");
    assert_eq!(fork.answer().expect("it goes on")["bad"], 0);
}

#[test]
fn a_signal_is_drain_and_the_fork_that_runs_is_served_to_its_end() {
    let dir = Dir::new();
    let mut server = Server::start(&dir, &["--template", &dir.template()]);
    let mut fork = server.fork("first", false);
    for signal in ["-TERM", "-INT", "-TERM"] {
        let pid = server.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .expect("it starts")
                .success()
        );
    }
    server.wait_until("it drains", |stats| stats["draining"] == true);
    verify(&mut fork);
    drop(fork);
    assert_eq!(server.child.wait().expect("it ends").code(), Some(0));
}

/// As it is on disk: see `file.rs`.
fn layer(dir: &Dir, is_base: bool, pages: &[u64]) -> String {
    let mut bytes = b"FKDLAYER".to_vec();
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(u32::from(is_base).to_le_bytes());
    for word in [PAGES * PAGE as u64, pages.len() as u64, pages.len() as u64] {
        bytes.extend(word.to_le_bytes());
    }
    for page in pages {
        bytes.extend(page.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
    for page in pages {
        // What a layer above has, is wrong in the one below.
        let shown = if is_base && page % 6 == 0 { page + 1 } else { *page };
        bytes.extend(pattern::bytes(shown));
    }
    let name: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    std::fs::write(dir.0.join(&name), bytes).expect("a file");
    dir.path(&name)
}

#[test]
fn forks_of_layers_see_the_topmost_page() {
    let dir = Dir::new();
    let all: Vec<u64> = (0..PAGES)
        .filter(|page| !pattern::is_zero(*page) || page % 6 == 0)
        .collect();
    let upper: Vec<u64> = all.iter().copied().filter(|page| page % 6 == 0).collect();
    let (base, top) = (layer(&dir, true, &all), layer(&dir, false, &upper));
    let server = Server::start(&dir, &["--layer", &base, "--layer", &top]);
    verify(&mut server.fork("a", false));
    let mut whole = server.fork("b", true);
    server.wait_until("it has all of its memory", |stats| stats["forks"] == json!([]));
    drop(server);
    verify(&mut whole);
}

#[test]
fn a_vmm_whose_server_dies_waits_and_is_never_given_zeros() {
    let dir = Dir::new();
    let mut server = Server::start(&dir, &["--template", &dir.template()]);
    let mut needs = server.fork("needs", false);
    let mut has = server.fork("has", true);
    server.wait_until("one has all of its memory", |stats| {
        stats["forks"].as_array().is_some_and(|forks| forks.len() == 1)
    });
    assert_eq!(needs.order("verify 0 100 2").expect("an answer")["bad"], 0);
    server.child.kill().expect("it lives");
    server.child.wait().expect("it ends");
    let answer = needs.order("touch-within 900 300").expect("an answer");
    assert!(answer["word"].is_null(), "{answer}");
    assert_eq!(needs.order("verify 0 100 2").expect("what it has, it keeps")["bad"], 0);
    verify(&mut has);
}

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(PROGRAM).args(arguments).output();
    let Output { status, stdout, stderr } = output.expect("it starts");
    (
        status.code(),
        String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned(),
    )
}

#[test]
fn what_it_cannot_do_it_says_with_what_to_do() {
    let dir = Dir::new();
    let template = dir.template();
    let here = dir.path("");
    let cases: [(&[&str], i32, &str); 10] = [
        (&["--help"], 0, "usage: forkd-page-server"),
        (&[], 2, "either --template or --layer"),
        (&["--template", &template], 2, "--socket-dir must say"),
        (
            &["--template", &template, "--layer", "x", "--socket-dir", &here],
            2,
            "either",
        ),
        (&["--forks", "0"], 2, "from 1 to 1024, and \"0\" is not"),
        (&["--socket-dir"], 2, "needs a value"),
        (
            &["--template", "/nowhere", "--socket-dir", &here],
            1,
            "reading /nowhere",
        ),
        (&["--template", "-"], 2, "--template - and --mem-mib belong together"),
        (
            &["--template", "-", "--mem-mib", "4", "--record", "x"],
            2,
            "--record needs a template",
        ),
        (&["--nonsense"], 2, "\"--nonsense\" is not known"),
    ];
    for (arguments, code, text) in cases {
        let (status, said) = run(arguments);
        assert_eq!(status, Some(code), "{arguments:?}: {said}");
        assert!(said.contains(text), "{arguments:?}: {said}");
    }
    let server = Server::start(&dir, &["--template", &template]);
    let (status, said) = run(&["--template", &template, "--socket-dir", &here]);
    assert_eq!(
        (status, said.contains("another one serves")),
        (Some(75), true),
        "{said}"
    );
    for (request, text) in [
        (json!({ "op": "fork", "name": "../x" }), "is no name"),
        (json!({ "op": "fork", "name": "control" }), "is no name"),
        (json!({ "op": "fork", "name": "a", "more": 1 }), "not understood"),
        (json!({ "op": "what" }), "not understood"),
        (json!([]), "not understood"),
    ] {
        let answer = server.ask(&request);
        assert!(
            answer["error"].as_str().is_some_and(|error| error.contains(text)),
            "{request}: {answer}"
        );
    }
    // One that is told too much hangs up, and serves the others.
    let mut stream = UnixStream::connect(dir.path("control.sock")).expect("it listens");
    let _ = stream.write_all(&vec![b'x'; 100_000]);
    let _ = stream.read_to_end(&mut Vec::new());
    verify(&mut server.fork("a", false));
}
