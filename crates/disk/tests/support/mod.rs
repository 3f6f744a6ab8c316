//! A real `forkd-disk`, its controller, and a client that keeps to the protocol or not.
#![allow(dead_code, reason = "each test file uses a part of it")]

use forkd_linux_sys::memfd::Mapping;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_forkd-disk");
const START_MAX: Duration = Duration::from_secs(20);
/// A server that does not answer fails a test, and does not hang it.
const ANSWER_MAX: Duration = Duration::from_secs(60);

pub const BLOCK: usize = 4096;
pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const TRIM: u16 = 4;
pub const WRITE_ZEROES: u16 = 6;

/// A server in directories of its own, which end with it.
pub struct Server {
    pub dir: PathBuf,
    pub child: Child,
    controller: BufReader<UnixStream>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait());
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Server {
    pub fn start() -> Server {
        let dir = directories();
        let (child, controller) = spawn(&dir, Command::new(PROGRAM));
        Server { dir, child, controller }
    }

    /// A server whose store is a file system in memory of this size, which only the server sees.
    pub fn start_in_memory(size: &str) -> Server {
        let dir = directories();
        let mut command = Command::new("unshare");
        let script = format!(
            "mount -t tmpfs -o size={size} store {} && exec \"$0\" \"$@\"",
            dir.join("store").display()
        );
        command.args(["--mount", "sh", "-c", &script, PROGRAM]);
        let (child, controller) = spawn(&dir, command);
        Server { dir, child, controller }
    }

    /// The number of files that the server keeps for its layers.
    pub fn files(&self) -> usize {
        // The server may have a file system of its own.
        let root = format!("/proc/{}/root{}/store/disks", self.child.id(), self.dir.display());
        let mut dirs = std::fs::read_dir(root).expect("a directory");
        let layers = dirs
            .next()
            .expect("one server")
            .expect("an entry")
            .path()
            .join("layers");
        std::fs::read_dir(layers).expect("a directory").count()
    }

    /// Changes the size of a file system in memory.
    pub fn resize_memory(&self, size: &str) {
        let target = format!("--target={}", self.child.id());
        let store = self.dir.join("store");
        let mut command = Command::new("nsenter");
        command.args([&target, "--mount", "mount", "-o", &format!("remount,size={size}")]);
        assert!(command.arg(store).status().expect("nsenter").success());
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Waits for the end of a server that was killed, and starts the next one.
    pub fn restart(&mut self) {
        self.child.wait().expect("its end");
        (self.child, self.controller) = spawn(&self.dir, Command::new(PROGRAM));
    }

    pub fn request(&mut self, request: Value) -> Result<Value, String> {
        let mut request = request;
        request["id"] = json!(1);
        let stream = self.controller.get_mut();
        stream
            .write_all(format!("{request}\n").as_bytes())
            .map_err(|error| error.to_string())?;
        let mut line = String::new();
        self.controller
            .read_line(&mut line)
            .map_err(|error| error.to_string())?;
        let reply: Value = serde_json::from_str(&line).map_err(|error| format!("{line:?}: {error}"))?;
        match reply["kind"].as_str() {
            Some("ok") => Ok(reply["result"].clone()),
            _ => Err(reply["error"]["message"].as_str().unwrap_or("no message").to_owned()),
        }
    }

    pub fn open(&mut self, key: &str, blocks: usize, layers: &Value) -> Value {
        let request = json!({ "op": "open", "key": key, "size_bytes": blocks * BLOCK, "layers": layers, "pid": null });
        self.request(request).expect("opened")
    }

    pub fn vmm_socket(&self) -> PathBuf {
        self.dir.join("run/shims/disk.sock")
    }

    pub fn connect(&self, key: &str) -> io::Result<Client> {
        Client::connect(&self.vmm_socket(), key)
    }
}

/// Does what a branch does inside the pause, and asks for the snapshot.
pub fn branch(server: &mut Server, key: &str, opened: &Value) -> Value {
    let page = File::options()
        .read(true)
        .write(true)
        .open(opened["epoch_path"].as_str().expect("a path"));
    let page = Mapping::read_write(&page.expect("the page"), BLOCK).expect("mapped");
    let epoch = page.word(0).fetch_add(1, Ordering::AcqRel) + 1;
    server
        .request(json!({ "op": "seal", "key": key, "epoch": epoch }))
        .expect("sealed")["layers"]
        .clone()
}

fn directories() -> PathBuf {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("forkd-disk-test-{}-{serial}", std::process::id()));
    for part in ["run", "store"] {
        std::fs::create_dir_all(dir.join(part)).expect("a directory");
    }
    dir
}

fn spawn(dir: &Path, mut command: Command) -> (Child, BufReader<UnixStream>) {
    let [run, store] = ["run", "store"].map(|part| dir.join(part));
    let arguments = [Path::new("--run-dir"), &run, Path::new("--store-dir"), &store];
    let child = command.args(arguments).stdin(Stdio::null()).spawn();
    let child = child.expect("a server");
    let start = Instant::now();
    loop {
        // A socket that does not exist yet cannot be awaited.
        match UnixStream::connect(run.join("disk.sock")) {
            Ok(stream) => {
                stream.set_read_timeout(Some(ANSWER_MAX)).expect("a timeout");
                return (child, BufReader::new(stream));
            }
            Err(error) => assert!(start.elapsed() < START_MAX, "the server does not listen: {error}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A client in the place of QEMU.
pub struct Client {
    pub stream: UnixStream,
    pub size: u64,
    cookie: u64,
}

impl Client {
    pub fn connect(path: &Path, key: &str) -> io::Result<Client> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        read_bytes(&mut stream, 18)?;
        let data = [&(key.len() as u32).to_be_bytes()[..], key.as_bytes(), &[0, 0]].concat();
        let option = [
            &3u32.to_be_bytes()[..],
            b"IHAVEOPT",
            &7u32.to_be_bytes(),
            &(data.len() as u32).to_be_bytes(),
            &data,
        ];
        stream.write_all(&option.concat())?;
        let mut size = 0;
        loop {
            let head = read_bytes(&mut stream, 20)?;
            let data = read_bytes(&mut stream, u32_at(&head, 16) as usize)?;
            match u32_at(&head, 12) {
                1 => break,
                3 if data[..2] == [0, 0] => size = u64::from_be_bytes(data[2..10].try_into().expect("eight bytes")),
                3 => {}
                refused => return Err(io::Error::other(format!("refused with {refused:#x}"))),
            }
        }
        Ok(Client {
            stream,
            size,
            cookie: 0,
        })
    }

    /// The cookie of the next request.
    pub fn next_cookie(&self) -> u64 {
        self.cookie + 1
    }

    /// Sends a request, and returns its cookie.
    pub fn send(&mut self, command: u16, block: usize, length: usize, payload: &[u8]) -> io::Result<u64> {
        self.cookie += 1;
        let (offset, length) = ((block * BLOCK) as u64, length as u32);
        let head = [&0x2560_9513u32.to_be_bytes()[..], &[0, 0], &command.to_be_bytes()].concat();
        let place = [
            &self.cookie.to_be_bytes()[..],
            &offset.to_be_bytes(),
            &length.to_be_bytes(),
        ]
        .concat();
        self.stream.write_all(&[&head, &place, payload].concat())?;
        Ok(self.cookie)
    }

    /// Receives the head of a reply: the cookie and the error.
    pub fn receive(&mut self) -> io::Result<(u64, u32)> {
        let head = read_bytes(&mut self.stream, 16)?;
        assert_eq!(u32_at(&head, 0), 0x6744_6698, "the magic of a reply");
        let cookie = u64::from_be_bytes(head[8..].try_into().expect("eight bytes"));
        Ok((cookie, u32_at(&head, 4)))
    }

    /// Sends a request without content, and returns the error of its reply.
    pub fn ask(&mut self, command: u16, block: usize, length: usize, payload: &[u8]) -> io::Result<u32> {
        let cookie = self.send(command, block, length, payload)?;
        let (replied, error) = self.receive()?;
        assert_eq!(replied, cookie);
        Ok(error)
    }

    pub fn read(&mut self, block: usize, blocks: usize) -> io::Result<Vec<u8>> {
        match self.ask(READ, block, blocks * BLOCK, &[])? {
            0 => read_bytes(&mut self.stream, blocks * BLOCK),
            error => Err(io::Error::from_raw_os_error(error as i32)),
        }
    }

    pub fn write(&mut self, block: usize, bytes: &[u8]) -> io::Result<()> {
        match self.ask(WRITE, block, bytes.len(), bytes)? {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error as i32)),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn read_bytes(stream: &mut UnixStream, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}
