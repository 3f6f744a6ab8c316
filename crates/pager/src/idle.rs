//! VMMs that have been started and wait for their VM.
//!
//! 1. `prepare`: the controller announces one, and starts it. Its shim calls, and its call is kept waiting.
//! 2. `await_idle`: the pager connects to its monitor and its end of the guest channel.
//! 3. `wake`: the call is answered with a VM's memory and device state. When it runs, it is a VM like any other.
//!
//! One that is released before that, or whose controller hangs up, finds its call ended and ends too.

use crate::blobs::Blobs;
use crate::bridge::Bridge;
use crate::connections::Connections;
use crate::error::{PagerError, Result, Step};
use crate::layers::Layers;
use crate::monitor::{self, Monitor};
use crate::sandbox::{Sandbox, Sandboxes};
use forkd_protocol::plan::DEVICE_STATE_BYTES_MAX;
use forkd_protocol::{FaultCode, Prepare, Wake};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A shim that has been given a VM has mapped it within this time.
const MAP_TIMEOUT: Duration = Duration::from_secs(10);

/// What a VMM that waits is given.
pub struct Job {
    pub sandbox: Arc<Sandbox>,
    pub device_state: Vec<u8>,
    /// Told once the memory is mapped.
    pub mapped: Sender<Result<()>>,
}

/// A VMM that waits.
#[derive(Debug)]
struct Idle {
    prepared: Prepare,
    jobs: Sender<Job>,
    /// Taken by the thread that has its shim's call.
    taken: Option<Receiver<Job>>,
    connections: Option<(Monitor, UnixStream)>,
}

/// All that wait, by name.
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

    /// Waits for the job of the VMM whose shim has called. `None` when it is not wanted any more.
    pub fn wait_for_job(&self, vmm: &str, key: &str) -> Result<Option<Job>> {
        let taken = {
            let mut known = self.known.lock().expect("no panic while held");
            let idle = known.get_mut(vmm).filter(|idle| idle.prepared.key == key);
            idle.and_then(|idle| idle.taken.take())
        };
        let jobs = taken.ok_or_else(|| unknown(vmm))?;
        Ok(jobs.recv().ok())
    }

    /// Connects to a VMM that is coming up; it waits for a VM when it answers.
    pub fn await_idle(&self, vmm: &str) -> Result<()> {
        let (monitor_socket, chardev_socket) = {
            let known = self.known.lock().expect("no panic while held");
            let idle = known.get(vmm).ok_or_else(|| unknown(vmm))?;
            (
                idle.prepared.monitor_socket.clone(),
                idle.prepared.chardev_socket.clone(),
            )
        };
        let monitor = Monitor::connect(&monitor_socket)?;
        let channel = monitor::connect(&chardev_socket)?;
        let mut known = self.known.lock().expect("no panic while held");
        let idle = known.get_mut(vmm).ok_or_else(|| unknown(vmm))?;
        idle.connections = Some((monitor, channel));
        Ok(())
    }

    /// Lets one that waits go. It ends.
    pub fn release(&self, vmm: &str) {
        let removed = self.known.lock().expect("no panic while held").remove(vmm);
        drop(removed);
    }

    /// Gives a VMM that waits the announced VM, and returns when it runs.
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
    let gone = |_| PagerError::new(FaultCode::VmGone, format!("the VMM of {} has ended", sandbox.name()));
    let (mapped, is_mapped) = mpsc::channel();
    let job = Job {
        sandbox: sandbox.clone(),
        device_state,
        mapped,
    };
    jobs.send(job).map_err(|_| gone(()))?;
    is_mapped.recv_timeout(MAP_TIMEOUT).map_err(|_| gone(()))??;
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
