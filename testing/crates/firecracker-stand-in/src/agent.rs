//! The guest agent, which is a process of the host here.

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const SOCKET: &str = "guest.sock";

/// Ends with this value, and with the process.
pub struct Agent {
    process: Child,
    socket: PathBuf,
}

impl Agent {
    /// Starts the agent. Call this on a thread that lives as long as the process, because the agent ends with that
    /// thread.
    pub fn start(program: &Path) -> Result<Agent, String> {
        // The socket is in the directory of the process, which belongs to the VM and is removed with it.
        let socket = PathBuf::from(SOCKET);
        // A VM that was here before may have been killed.
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new(program);
        command.arg("--socket").arg(&socket).stdin(Stdio::null());
        // SAFETY: prctl is safe between fork and exec, and the call takes no pointer.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            })
        };
        let process = command
            .spawn()
            .map_err(|error| format!("starting {}: {error}", program.display()))?;
        Ok(Agent { process, socket })
    }

    /// `None` while it does not listen.
    pub fn connect(&self) -> Option<UnixStream> {
        UnixStream::connect(&self.socket).ok()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The process and the socket may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}
