//! The stand-in, seen from outside.

use forkd_linux_sys::fds::{self, Wait};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Nothing that is asked of it takes that long: what hangs is a failure, not a hang.
const PATIENCE: Duration = Duration::from_secs(40);

/// A running stand-in. It is ended when this is dropped.
pub struct Vmm {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    line: Vec<u8>,
}

impl Vmm {
    /// Starts one that connects to `socket`. [`Vmm::answer`] says when it has handed over its memory.
    pub fn start(socket: &Path, arguments: &[&str]) -> io::Result<Vmm> {
        let mut command = Command::new(program());
        command.arg("--socket").arg(socket).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let line = Vec::new();
        Ok(Vmm {
            child,
            input,
            output,
            line,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives an order, and waits until it has been carried out.
    pub fn order(&mut self, order: &str) -> io::Result<Value> {
        self.begin(order)?;
        self.answer()
    }

    /// Gives an order that others may get while this one is carried out.
    pub fn begin(&mut self, order: &str) -> io::Result<()> {
        writeln!(self.input, "{order}")
    }

    /// The next answer.
    pub fn answer(&mut self) -> io::Result<Value> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(io::Error::other);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the stand-in does not answer"));
            }
            if fds::wait(&[Wait::readable(&self.output)], Some(left))?[0] {
                let mut buffer = [0u8; 4096];
                let got = self.output.read(&mut buffer)?;
                if got == 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stand-in has ended"));
                }
                self.line.extend_from_slice(&buffer[..got]);
            }
        }
    }

    /// Kills it, as an operator or the kernel would.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait()? {
                Some(status) => return Ok(status),
                None if Instant::now() > until => return Err(io::Error::new(io::ErrorKind::TimedOut, "it lives on")),
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // Killing fails only if the process has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, built in the way that the caller was: a test of another package has no other way to it.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["build", "--quiet", "--package", "forkd-vmm-stand-in"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        build
            .arg("--message-format=json")
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        let built = build.stderr(Stdio::inherit()).output().expect("cargo can be started");
        let messages = String::from_utf8_lossy(&built.stdout).into_owned();
        let messages = messages
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let program = messages
            .filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
            .next_back();
        program.expect("the stand-in builds")
    })
}
