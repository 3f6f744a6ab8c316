//! A pager, its controller, and VMMs of it.

use forkd_vmm_stand_in::Vmm;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_forkd-pager");
/// The memory of a stand-in.
pub const MEM_BYTES: u64 = 16 << 20;
pub const KEY: &str = "key";

pub struct Dir(pub PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A pager, and a connection to it.
pub struct Pager {
    child: Child,
    pub dir: Dir,
    pub controller: Controller,
}

impl Pager {
    pub fn start() -> Pager {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("forkd-hostile-{}-{serial}", std::process::id()));
        for part in ["run", "store"] {
            std::fs::create_dir_all(dir.join(part)).expect("a directory");
        }
        let dir = Dir(dir);
        let child = start(&dir.0);
        let controller = Controller::connect(&dir.0);
        Pager { child, dir, controller }
    }

    /// Ends it, as the kernel would, and starts the next one.
    pub fn restart(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("its end");
        self.child = start(&self.dir.0);
        self.controller = Controller::connect(&self.dir.0);
    }

    pub fn announce(&mut self, name: &str, caller: &Value) {
        let path = |file: &str| self.dir.0.join(name).join(file);
        let announced = self.controller.request(json!({
            "op": "announce", "sandbox": name, "mem_bytes": MEM_BYTES, "stack": [], "caller": caller,
            "monitor_socket": path("monitor"), "chardev_socket": path("channel"), "agent_socket": path("agent"),
        }));
        assert_eq!(announced["kind"], "ok", "{announced}");
    }

    /// A VMM that does `harm`, of a sandbox of that name.
    pub fn vmm(&mut self, name: &str, harm: &str) -> Vmm {
        self.announce(name, &json!({ "key": KEY }));
        let dir = self.dir.0.join(name);
        std::fs::create_dir(&dir).expect("a directory");
        let shims = self.dir.0.join("run/shims/shim.sock");
        let dir = dir.to_str().expect("plain");
        let arguments = ["--sandbox", name, "--key", KEY, "--dir", dir, "--does", harm];
        let mut vmm = Vmm::start(&shims, &arguments).expect("a VMM");
        vmm.answer().expect("ready");
        vmm
    }

    /// The same, opened.
    pub fn opened(&mut self, name: &str, harm: &str) -> Vmm {
        let vmm = self.vmm(name, harm);
        let opened = self.controller.request(open(name));
        assert_eq!(opened["kind"], "ok", "{opened}");
        vmm
    }

    pub fn await_attached(&mut self, name: &str) {
        let until = Instant::now() + Duration::from_secs(20);
        let is_attached = |inventory: Value| {
            let sandboxes = inventory["result"]["sandboxes"].as_array().cloned().unwrap_or_default();
            let mut sandboxes = sandboxes.iter();
            sandboxes.any(|held| held["sandbox"] == name && held["attached"] == true)
        };
        while !is_attached(self.controller.request(json!({ "op": "inventory" }))) {
            assert!(Instant::now() < until, "it is attached");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.0.join("run/pager.log")).expect("a log")
    }

    pub fn threads(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("its threads");
        let names = tasks
            .flatten()
            .map(|task| std::fs::read_to_string(task.path().join("comm")));
        names.flatten().map(|name| name.trim().to_owned()).collect()
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(dir: &Path) -> Child {
    let mut command = Command::new(PROGRAM);
    command.arg("--run-dir").arg(dir.join("run"));
    command.arg("--store-dir").arg(dir.join("store"));
    command.stdin(Stdio::null()).spawn().expect("a pager")
}

/// Requests to the pager, which run side by side.
pub struct Controller {
    stream: UnixStream,
    input: BufReader<UnixStream>,
    last_id: u64,
    replies: HashMap<u64, Value>,
}

impl Controller {
    pub fn connect(dir: &Path) -> Controller {
        let path = dir.join("run/pager.sock");
        let until = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a timeout");
        let input = BufReader::new(stream.try_clone().expect("a duplicate"));
        Controller {
            stream,
            input,
            last_id: 0,
            replies: HashMap::new(),
        }
    }

    pub fn begin(&mut self, mut request: Value) -> u64 {
        self.last_id += 1;
        request["id"] = json!(self.last_id);
        writeln!(self.stream, "{request}").expect("it listens");
        self.last_id
    }

    pub fn wait(&mut self, id: u64) -> Value {
        self.wait_for_first(&[id]).1
    }

    /// The first reply to any of these requests, and the request's place among them.
    pub fn wait_for_first(&mut self, ids: &[u64]) -> (usize, Value) {
        loop {
            for (place, id) in ids.iter().enumerate() {
                if let Some(reply) = self.replies.remove(id) {
                    return (place, reply);
                }
            }
            let mut line = String::new();
            self.input.read_line(&mut line).expect("a reply in time");
            let reply: Value = serde_json::from_str(&line).expect("a reply");
            if reply["kind"] != "event" {
                self.replies.insert(reply["id"].as_u64().expect("a number"), reply);
            }
        }
    }

    pub fn request(&mut self, request: Value) -> Value {
        let id = self.begin(request);
        self.wait(id)
    }
}

pub fn open(name: &str) -> Value {
    json!({ "op": "open", "sandbox": name, "paused": false })
}
