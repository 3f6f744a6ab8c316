//! The vsock device's end on the host: a unix socket on which a connection names the guest's port first.

use crate::agent::Agent;
use crate::memory::Receiver;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
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
    runs: AtomicBool,
    next_port: AtomicU32,
    connections: Mutex<Vec<UnixStream>>,
}

pub struct VsockDevice {
    shared: Arc<Shared>,
}

impl VsockDevice {
    /// What the host sends goes into guest memory by `receiver`.
    pub fn listen(path: &str, agent: Option<Arc<Agent>>, receiver: Receiver) -> Result<VsockDevice, String> {
        let listener = UnixListener::bind(path)
            .map_err(|error| format!("Cannot create backend for vsock device: UnixBind({error})"))?;
        let shared = Arc::new(Shared {
            agent,
            receiver,
            runs: AtomicBool::new(false),
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
        self.shared.runs.store(runs, Ordering::Relaxed);
    }

    /// Ends every connection.
    pub fn reset(&self) {
        for stream in self.shared.connections.lock().expect("no panic while held").drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn serve(&self, mut host: UnixStream) -> Option<()> {
        let port = asked_port(&mut host)?;
        if port != AGENT_PORT {
            return None;
        }
        // The guest is asked whether it runs or not: what is put into its memory waits there for it.
        let receiver = self.receiver.connection();
        if !receiver.receive(REQUEST_BYTES) || !self.runs.load(Ordering::Relaxed) {
            return None;
        }
        let guest = self.agent.as_ref()?.connect()?;
        let host_port = self.next_port.fetch_add(1, Ordering::Relaxed);
        host.write_all(format!("OK {host_port}\n").as_bytes()).ok()?;
        let mut connections = self.connections.lock().expect("no panic while held");
        connections.push(host.try_clone().ok()?);
        connections.push(guest.try_clone().ok()?);
        drop(connections);
        let (mut from_host, mut to_guest) = (host.try_clone().ok()?, guest.try_clone().ok()?);
        thread::spawn(move || receive(&mut from_host, &mut to_guest, &receiver));
        let (mut from_guest, mut to_host) = (guest, host);
        carry(&mut from_guest, &mut to_host);
        Some(())
    }
}

/// From the host, through guest memory.
fn receive(host: &mut UnixStream, guest: &mut UnixStream, receiver: &Receiver) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = host.read(&mut buffer) {
        if !receiver.receive(count) || guest.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = guest.shutdown(Shutdown::Both);
    let _ = host.shutdown(Shutdown::Both);
}

fn carry(from: &mut UnixStream, to: &mut UnixStream) {
    // Either end's hang-up ends both directions.
    let _ = std::io::copy(from, to);
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
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
