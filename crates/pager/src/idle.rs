//! VMMs that have been started and wait for a VM.
//!
//! 1. `prepare`: the controller announces a VMM, and starts it. The VMM's shim calls, and the call is kept waiting.
//! 2. `await_idle`: the pager connects to the VMM's monitor and to its end of the guest channel.
//! 3. `wake`: the call is answered with a VM's memory and device state. Once the VM runs, it is like any other.
//!
//! With `load_ahead` before `wake`, the VMM loads memory and device state while it waits. `wake` then only gives it the name, and
//! has it run. Such a VMM takes no other VM.
//!
//! If the VMM is released before that, or its controller hangs up, the call ends and so does the VMM.

use crate::attachment::Attachment;
use crate::bridge::Bridge;
use crate::connections::Connections;
use crate::control::{Control, PATIENCE};
use crate::error::{PagerError, Result, Step};
use crate::inside::InsideWindow;
use crate::monitor::Monitor;
use crate::sandbox::Sandbox;
use crate::sandboxes::{Sandboxes, check_refreshes};
use forkd_layers::{Blobs, Layer, Layers, MappedStack, Stack};
use forkd_protocol::plan::DEVICE_STATE_BYTES_MAX;
use forkd_protocol::window::Progress;
use forkd_protocol::{Announce, FaultCode, LoadAhead, Prepare, Refresh, Wake};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Longest time for a VMM to map the memory of its VM, to load its device state, and to run it.
const LOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A job for the thread with the call of a waiting VMM.
pub enum Job {
    /// Give the VMM memory and device state. With a VM, the VMM belongs to that from then on.
    Load(Box<Load>),
    /// Wait for the end of the VMM, which belongs to this VM now.
    Follow(String),
}

pub struct Load {
    pub vm: Option<Arc<Sandbox>>,
    pub memory: Arc<Stack>,
    pub refresh: Vec<Refresh>,
    pub device_state: Vec<u8>,
    /// Gets the memory that the VMM has handed over, once it is mapped.
    pub mapped: Sender<Result<Attachment>>,
}

/// A waiting VMM.
#[derive(Debug)]
struct Idle {
    prepared: Prepare,
    jobs: Sender<Job>,
    /// The receiving end, until the thread with the shim's call takes it.
    taken: Option<Receiver<Job>>,
    connections: Option<(Monitor, Bridge)>,
    ahead: Ahead,
}

/// The VM that a waiting VMM has loaded before it was given one.
#[derive(Debug)]
enum Ahead {
    Nothing,
    /// The VMM is loading, or failed to.
    Loading,
    Loaded(Box<Loaded>),
}

/// A VM that has been loaded and does not run yet.
#[derive(Debug)]
struct Loaded {
    from: LoadAhead,
    memory: MappedStack,
    attachment: Attachment,
    window: Arc<InsideWindow>,
}

/// All waiting VMMs, by name.
#[derive(Debug, Default)]
pub struct IdleVmms {
    known: Mutex<HashMap<String, Idle>>,
}

impl IdleVmms {
    pub fn prepare(&self, prepared: Prepare) -> Result<()> {
        let mut known = self.lock();
        if known.contains_key(&prepared.vmm) {
            let message = format!("the VMM {} has been announced before", prepared.vmm);
            return Err(PagerError::new(FaultCode::BadRequest, message));
        }
        let (jobs, taken) = mpsc::channel();
        let idle = Idle {
            jobs,
            taken: Some(taken),
            connections: None,
            ahead: Ahead::Nothing,
            prepared: prepared.clone(),
        };
        known.insert(prepared.vmm, idle);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Idle>> {
        self.known.lock().expect("no panic while held")
    }

    /// The jobs of the VMM whose shim has called. They end once the VMM is no longer wanted.
    pub fn jobs_of(&self, vmm: &str, key: &str) -> Result<Receiver<Job>> {
        let mut known = self.lock();
        let idle = known.get_mut(vmm).filter(|idle| idle.prepared.key == key);
        idle.and_then(|idle| idle.taken.take()).ok_or_else(|| unknown(vmm))
    }

    /// Connects to a VMM that is starting. A VMM that answers is waiting for a VM.
    pub fn await_idle(&self, vmm: &str) -> Result<()> {
        let found = self.lock().get(vmm).map(|idle| idle.prepared.clone());
        let Prepare {
            monitor_socket,
            chardev_socket,
            agent_socket,
            ..
        } = found.ok_or_else(|| unknown(vmm))?;
        let until = Instant::now() + PATIENCE;
        let monitor = Monitor::connect(&monitor_socket, PATIENCE)?;
        let bridge = Bridge::open(&chardev_socket, &agent_socket, until)?;
        let mut known = self.lock();
        let idle = known.get_mut(vmm).ok_or_else(|| unknown(vmm))?;
        idle.connections = Some((monitor, bridge));
        Ok(())
    }

    /// Drops a waiting VMM, which then ends.
    pub fn release(&self, vmm: &str) {
        let removed = self.lock().remove(vmm);
        drop(removed);
    }

    /// Drops the waiting VMMs that have loaded one of these layers: nobody will ask for their VM any more.
    pub fn release_loaded(&self, layers: &[Arc<Layer>]) {
        let has = |stack: &Stack| {
            let mut own = stack.layers.iter();
            own.any(|layer| layers.iter().any(|other| Arc::ptr_eq(layer, other)))
        };
        let mut known = self.lock();
        let dropped: Vec<_> = known
            .extract_if(|_, idle| matches!(&idle.ahead, Ahead::Loaded(loaded) if has(&loaded.memory.stack)))
            .collect();
        drop(known);
        // Dropped without the lock: freeing memory takes time.
        drop(dropped);
    }

    /// Has a waiting VMM load a VM that nobody has asked for yet.
    pub fn load_ahead(&self, from: LoadAhead, layers: &Layers, blobs: &Blobs) -> Result<()> {
        let vmm = from.vmm.clone();
        let loaded = self.begin_load(&vmm).and_then(|mem_bytes| {
            check_refreshes(&vmm, &from.refresh, mem_bytes)?;
            let memory = layers.mapped_stack(mem_bytes, &from.stack, blobs)?;
            let device_state = read_device_state(&from.device_state)?;
            self.load(&vmm, &memory, from.refresh.clone(), device_state)
                .map(|(attachment, window)| Loaded {
                    from,
                    memory,
                    attachment,
                    window,
                })
        });
        let loaded = loaded.inspect_err(|_| self.release(&vmm))?;
        let mut known = self.lock();
        let idle = known.get_mut(&vmm).ok_or_else(|| unknown(&vmm))?;
        idle.ahead = Ahead::Loaded(Box::new(loaded));
        Ok(())
    }

    /// Notes that a VMM is loading, and returns its memory in bytes. A VMM loads once.
    fn begin_load(&self, vmm: &str) -> Result<u64> {
        let mut known = self.lock();
        let idle = known.get_mut(vmm).filter(|idle| idle.connections.is_some());
        let idle = idle.ok_or_else(|| unknown(vmm))?;
        if !matches!(idle.ahead, Ahead::Nothing) {
            return Err(has_loaded(vmm));
        }
        idle.ahead = Ahead::Loading;
        Ok(idle.prepared.mem_bytes)
    }

    /// Has a VMM load, and waits until it has.
    fn load(
        &self,
        vmm: &str,
        memory: &MappedStack,
        refresh: Vec<Refresh>,
        device_state: Vec<u8>,
    ) -> Result<(Attachment, Arc<InsideWindow>)> {
        let jobs = self.lock().get(vmm).ok_or_else(|| unknown(vmm))?.jobs.clone();
        let until = Instant::now() + LOAD_TIMEOUT;
        let attachment = give(&jobs, vmm, None, memory.mapped.clone(), refresh, device_state)?;
        let window = attachment.window.clone().ok_or_else(|| {
            PagerError::new(
                FaultCode::Unsupported,
                format!("the VMM {vmm} does not load device states itself"),
            )
        })?;
        window.await_progress(Progress::Loaded, until)?;
        Ok((attachment, window))
    }

    /// Has a waiting VMM load the memory `layers` and a device state. Has `check` compare what it has then, and runs it. The VMM
    /// is not needed afterwards.
    pub fn try_load(
        &self,
        vmm: &str,
        memory: &Arc<Stack>,
        device_state: &[u8],
        check: impl FnOnce(&Attachment, &mut Monitor) -> Result<()>,
    ) -> Result<()> {
        self.begin_load(vmm)?;
        let memory = MappedStack {
            stack: memory.clone(),
            mapped: memory.clone(),
        };
        let loaded = self.load(vmm, &memory, Vec::new(), device_state.to_vec());
        let idle = self.lock().remove(vmm).ok_or_else(|| unknown(vmm))?;
        let (attachment, window) = loaded?;
        let (mut monitor, _bridge) = idle.connections.ok_or_else(|| unknown(vmm))?;
        monitor.allow(PATIENCE);
        check(&attachment, &mut monitor)?;
        window.order_run(vmm)?;
        window.await_progress(Progress::Runs, Instant::now() + LOAD_TIMEOUT)?;
        monitor.allow(PATIENCE);
        if !monitor.is_running()? {
            return Err(PagerError::gone(format!("the VMM {vmm} does not run its VM")));
        }
        Ok(())
    }

    /// Gives a waiting VMM the announced VM, and returns once the VM runs.
    pub fn wake(&self, wake: Wake, sandboxes: &Sandboxes, layers: &Layers, blobs: &Blobs) -> Result<()> {
        let name = wake.announce.sandbox.clone();
        let idle = self.lock().remove(&wake.vmm).ok_or_else(|| unknown(&wake.vmm))?;
        if idle.prepared.mem_bytes != wake.announce.mem_bytes {
            let message = format!(
                "the VMM {} waits with {} bytes of memory, {name} has {}",
                wake.vmm, idle.prepared.mem_bytes, wake.announce.mem_bytes
            );
            return Err(PagerError::new(FaultCode::BadRequest, message));
        }
        let mut added = None;
        let woken = idle.wake(wake, &mut added, sandboxes, layers, blobs);
        if let (Err(_), Some(sandbox)) = (&woken, added) {
            // The controller may have noticed the end of the VMM first, and have started another one for this VM.
            sandboxes.release_own(&sandbox);
        }
        woken
    }
}

impl Idle {
    /// Notes in `added` the VM that it adds.
    fn wake(
        self,
        wake: Wake,
        added: &mut Option<Arc<Sandbox>>,
        sandboxes: &Sandboxes,
        layers: &Layers,
        blobs: &Blobs,
    ) -> Result<()> {
        let Idle {
            prepared,
            jobs,
            connections,
            ahead,
            ..
        } = self;
        let Wake {
            vmm,
            announce,
            device_state,
        } = wake;
        let (monitor, mut bridge) = connections.ok_or_else(|| unknown(&vmm))?;
        let until = Instant::now() + LOAD_TIMEOUT;
        let (sandbox, starting) = match ahead {
            Ahead::Loaded(loaded) if loaded.is_of(&announce, &device_state) => {
                let Loaded {
                    memory,
                    attachment,
                    window,
                    ..
                } = *loaded;
                let sandbox = added.insert(sandboxes.add(announce, memory)?).clone();
                sandbox.admit(attachment.source.pid, &prepared.key)?;
                sandbox.attach(attachment)?;
                let follow = Job::Follow(sandbox.name().into());
                jobs.send(follow).map_err(|_| ended(&vmm))?;
                window.order_run(sandbox.name())?;
                (sandbox, Some(window))
            }
            Ahead::Nothing => {
                let device_state = read_device_state(&device_state)?;
                let memory = layers.mapped_stack(announce.mem_bytes, &announce.stack, blobs)?;
                let sandbox = added.insert(sandboxes.add(announce, memory)?).clone();
                let (memory, refresh) = (sandbox.mapped.clone(), sandbox.announced.refresh.clone());
                let attachment = give(&jobs, &vmm, Some(sandbox.clone()), memory, refresh, device_state)?;
                (sandbox, attachment.window)
            }
            Ahead::Loading | Ahead::Loaded(_) => return Err(has_loaded(&vmm)),
        };
        bridge.moved_to(&sandbox.announced.agent_socket);
        let mut control = Box::new(monitor);
        match starting {
            Some(window) => window.await_progress(Progress::Runs, until)?,
            None => {
                control.allow(PATIENCE);
                control.wait_until_running()?;
            }
        }
        sandbox.connect(Connections { control, bridge });
        Ok(())
    }
}

impl Loaded {
    /// True if this is the VM that `announce` and `device_state` describe.
    fn is_of(&self, announce: &Announce, device_state: &str) -> bool {
        let from = &self.from;
        from.stack == announce.stack && from.refresh == announce.refresh && from.device_state == device_state
    }
}

/// Gives a VMM memory and device state, and returns the memory that it has handed over.
fn give(
    jobs: &Sender<Job>,
    vmm: &str,
    vm: Option<Arc<Sandbox>>,
    memory: Arc<Stack>,
    refresh: Vec<Refresh>,
    device_state: Vec<u8>,
) -> Result<Attachment> {
    let (mapped, is_mapped) = mpsc::channel();
    let load = Load {
        vm,
        memory,
        refresh,
        device_state,
        mapped,
    };
    jobs.send(Job::Load(Box::new(load))).map_err(|_| ended(vmm))?;
    is_mapped.recv_timeout(LOAD_TIMEOUT).map_err(|_| ended(vmm))?
}

fn ended(vmm: &str) -> PagerError {
    PagerError::gone(format!("the waiting VMM {vmm} has ended"))
}

fn has_loaded(vmm: &str) -> PagerError {
    let message = format!("the VMM {vmm} has loaded a VM, or is loading one, and takes no other");
    PagerError::new(FaultCode::BadRequest, message)
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
