//! VMMs that have been started and wait for a VM.
//!
//! 1. `prepare`: the controller announces a VMM, and starts it. The VMM's shim calls, and the call is kept waiting.
//! 2. `await_idle`: the pager connects to the VMM's monitor and to its end of the guest channel.
//! 3. `wake`: the call is answered with a VM's memory and device state. Once the VM runs, it is like any other.
//!
//! If the VMM is released before that, or its controller hangs up, the call ends and so does the VMM.

use crate::bridge::Bridge;
use crate::connections::Connections;
use crate::control::{Control, PATIENCE};
use crate::error::{PagerError, Result, Step};
use crate::monitor::Monitor;
use crate::sandbox::Sandbox;
use crate::sandboxes::Sandboxes;
use crate::socket;
use forkd_layers::{Blobs, Layers};
use forkd_protocol::plan::DEVICE_STATE_BYTES_MAX;
use forkd_protocol::{FaultCode, Prepare, Wake};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest time for a shim to map the memory of its VM.
const MAP_TIMEOUT: Duration = Duration::from_secs(10);

/// The VM that a waiting VMM is given.
pub struct Job {
    pub sandbox: Arc<Sandbox>,
    pub device_state: Vec<u8>,
    /// Gets the result once the memory is mapped.
    pub mapped: Sender<Result<()>>,
}

/// A waiting VMM.
#[derive(Debug)]
struct Idle {
    prepared: Prepare,
    jobs: Sender<Job>,
    /// The receiving end, until the thread with the shim's call takes it.
    taken: Option<Receiver<Job>>,
    connections: Option<(Monitor, UnixStream)>,
}

/// All waiting VMMs, by name.
#[derive(Debug, Default)]
pub struct IdleVmms {
    known: Mutex<HashMap<String, Idle>>,
}

impl IdleVmms {
    pub fn prepare(&self, prepared: Prepare) -> Result<()> {
        let mut known = self.known.lock().expect("no panic while held");
        if known.contains_key(&prepared.vmm) {
            let message = format!("the VMM {} has been announced before", prepared.vmm);
            return Err(PagerError::new(FaultCode::BadRequest, message));
        }
        let (jobs, taken) = mpsc::channel();
        let idle = Idle {
            jobs,
            taken: Some(taken),
            connections: None,
            prepared: prepared.clone(),
        };
        known.insert(prepared.vmm, idle);
        Ok(())
    }

    /// Waits for the job of the VMM whose shim has called. `None` once the VMM is no longer wanted.
    pub fn wait_for_job(&self, vmm: &str, key: &str) -> Result<Option<Job>> {
        let taken = {
            let mut known = self.known.lock().expect("no panic while held");
            let idle = known.get_mut(vmm).filter(|idle| idle.prepared.key == key);
            idle.and_then(|idle| idle.taken.take())
        };
        let jobs = taken.ok_or_else(|| unknown(vmm))?;
        Ok(jobs.recv().ok())
    }

    /// Connects to a VMM that is starting. A VMM that answers is waiting for a VM.
    pub fn await_idle(&self, vmm: &str) -> Result<()> {
        let (monitor_socket, chardev_socket) = {
            let known = self.known.lock().expect("no panic while held");
            let idle = known.get(vmm).ok_or_else(|| unknown(vmm))?;
            (
                idle.prepared.monitor_socket.clone(),
                idle.prepared.chardev_socket.clone(),
            )
        };
        let until = Instant::now() + PATIENCE;
        let monitor = Monitor::connect(&monitor_socket, PATIENCE)?;
        let channel = socket::connect(&chardev_socket, until)?;
        let mut known = self.known.lock().expect("no panic while held");
        let idle = known.get_mut(vmm).ok_or_else(|| unknown(vmm))?;
        idle.connections = Some((monitor, channel));
        Ok(())
    }

    /// Drops a waiting VMM, which then ends.
    pub fn release(&self, vmm: &str) {
        let removed = self.known.lock().expect("no panic while held").remove(vmm);
        drop(removed);
    }

    /// Gives a waiting VMM the announced VM, and returns once the VM runs.
    pub fn wake(&self, wake: Wake, sandboxes: &Sandboxes, layers: &Layers, blobs: &Blobs) -> Result<()> {
        let name = wake.announce.sandbox.clone();
        let idle = self.known.lock().expect("no panic while held").remove(&wake.vmm);
        let Idle {
            prepared,
            jobs,
            connections,
            ..
        } = idle.ok_or_else(|| unknown(&wake.vmm))?;
        if prepared.mem_bytes != wake.announce.mem_bytes {
            let message = format!(
                "the VMM {} waits with {} bytes of memory, {name} has {}",
                wake.vmm, prepared.mem_bytes, wake.announce.mem_bytes
            );
            return Err(PagerError::new(FaultCode::BadRequest, message));
        }
        let connections = connections.ok_or_else(|| unknown(&wake.vmm))?;
        let device_state = read_device_state(&wake.device_state)?;
        sandboxes.announce(wake.announce, layers, blobs)?;
        let started = sandboxes
            .find(&name)
            .and_then(|sandbox| start(&sandbox, device_state, &jobs, connections));
        if started.is_err() {
            sandboxes.release(&name);
        }
        started
    }
}

fn start(
    sandbox: &Arc<Sandbox>,
    device_state: Vec<u8>,
    jobs: &Sender<Job>,
    (mut monitor, channel): (Monitor, UnixStream),
) -> Result<()> {
    let gone = |()| PagerError::gone(format!("the VMM of {} has ended", sandbox.name()));
    let (mapped, is_mapped) = mpsc::channel();
    let job = Job {
        sandbox: sandbox.clone(),
        device_state,
        mapped,
    };
    jobs.send(job).map_err(|_| gone(()))?;
    is_mapped.recv_timeout(MAP_TIMEOUT).map_err(|_| gone(()))??;
    monitor.allow(PATIENCE);
    monitor.wait_until_running()?;
    let bridge = Bridge::over(channel, &sandbox.announced.agent_socket)?;
    let control = Box::new(monitor);
    sandbox.connect(Connections { control, bridge });
    Ok(())
}

fn unknown(vmm: &str) -> PagerError {
    PagerError::new(FaultCode::UnknownSandbox, format!("no VMM {vmm} waits for a VM"))
}

fn read_device_state(path: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(DEVICE_STATE_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.step(|| format!("reading the device state {path}"))?;
    if bytes.is_empty() || bytes.len() as u64 > DEVICE_STATE_BYTES_MAX {
        let message = format!("{path} is no device state: it has {} bytes", bytes.len());
        return Err(PagerError::new(FaultCode::CorruptLayer, message));
    }
    Ok(bytes)
}
