//! The vsock device's end on the host: a unix socket on which a connection names the guest's port first.

use crate::agent::Agent;
use crate::memory::Receiver;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

/// The port on which the guest agent listens; `VSOCK_PORT` of the agent.
const AGENT_PORT: u32 = 10_777;
/// `CONNECT` and a number are never longer.
const COMMAND_BYTES_MAX: usize = 32;
/// A packet without content.
const REQUEST_BYTES: usize = 44;
const FIRST_HOST_PORT: u32 = 1_073_741_824;

struct Shared {
    agent: Option<Arc<Agent>>,
    receiver: Receiver,
    gate: Gate,
    next_port: AtomicU32,
    connections: Mutex<Vec<UnixStream>>,
}

/// Firecracker serves no device of a VM that is paused: what is sent waits, and nothing is answered.
#[derive(Default)]
struct Gate {
    runs: Mutex<bool>,
    opened: Condvar,
}

pub struct VsockDevice {
    shared: Arc<Shared>,
}

impl VsockDevice {
    /// Listens for the host. `receiver` writes the host's bytes to guest memory.
    pub fn listen(path: &str, agent: Option<Arc<Agent>>, receiver: Receiver) -> Result<VsockDevice, String> {
        let listener = UnixListener::bind(path)
            .map_err(|error| format!("Cannot create backend for vsock device: UnixBind({error})"))?;
        let shared = Arc::new(Shared {
            agent,
            receiver,
            gate: Gate::default(),
            next_port: AtomicU32::new(FIRST_HOST_PORT),
            connections: Mutex::default(),
        });
        let device = VsockDevice { shared: shared.clone() };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                // A connection that cannot be served ends, as one that nobody in the guest accepts.
                thread::spawn(move || shared.serve(stream));
            }
        });
        Ok(device)
    }

    pub fn set_running(&self, runs: bool) {
        *self.shared.gate.runs.lock().expect("no panic while held") = runs;
        self.shared.gate.opened.notify_all();
    }

    /// Ends every connection.
    pub fn reset(&self) {
        for stream in self.shared.connections.lock().expect("no panic while held").drain(..) {
            // The connection may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn serve(self: &Arc<Self>, mut host: UnixStream) -> Option<()> {
        let port = asked_port(&mut host)?;
        if port != AGENT_PORT {
            return None;
        }
        let runs = self.gate.pass();
        let receiver = self.receiver.connection();
        if !receiver.receive(REQUEST_BYTES) {
            return None;
        }
        drop(runs);
        let guest = self.agent.as_ref()?.connect()?;
        let host_port = self.next_port.fetch_add(1, Ordering::Relaxed);
        host.write_all(format!("OK {host_port}\n").as_bytes()).ok()?;
        let mut connections = self.connections.lock().expect("no panic while held");
        connections.push(host.try_clone().ok()?);
        connections.push(guest.try_clone().ok()?);
        drop(connections);
        let (from_host, to_guest) = (host.try_clone().ok()?, guest.try_clone().ok()?);
        let theirs = self.clone();
        thread::spawn(move || theirs.carry(from_host, to_guest, |count| receiver.receive(count)));
        self.carry(guest, host, |_| true);
        Some(())
    }

    /// Moves bytes one way while the VM runs, each piece once `note` has taken it. Either end's hang-up ends both directions.
    fn carry(&self, mut from: UnixStream, mut to: UnixStream, note: impl Fn(usize) -> bool) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let runs = self.gate.pass();
            if !note(count) {
                break;
            }
            drop(runs);
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        // The connections may have ended by themselves.
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}

impl Gate {
    /// Waits until the VM runs. It cannot be paused while the value that is returned lives.
    fn pass(&self) -> MutexGuard<'_, bool> {
        let runs = self.runs.lock().expect("no panic while held");
        self.opened
            .wait_while(runs, |runs| !*runs)
            .expect("no panic while held")
    }
}

fn asked_port(host: &mut UnixStream) -> Option<u32> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        host.read_exact(&mut byte).ok()?;
        line.push(byte[0]);
        if line.len() > COMMAND_BYTES_MAX {
            return None;
        }
    }
    std::str::from_utf8(&line)
        .ok()?
        .strip_prefix("CONNECT ")?
        .trim_end()
        .parse()
        .ok()
}
