//! The pause window: vCPUs stopped → vCPUs running again.

use crate::bridge::{Bridge, ShutGate};
use crate::error::{PagerError, Result, Step};
use crate::monitor::Monitor;
use forkd_linux_sys::memfd;
use forkd_linux_sys::sched::Urgent;
use forkd_protocol::FaultCode;
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

/// The set of descriptors that QEMU files the device state's memfd under.
const FDSET: u32 = 7;
/// A device state is some ten kilobytes; this bounds what is read of a broken one.
const DEVICE_STATE_BYTES_MAX: u64 = 64 << 20;

/// What a pause has cost and what it has brought.
pub struct Paused<T> {
    pub value: T,
    pub device_state: Vec<u8>,
    pub pause: Duration,
    pub device_state_time: Duration,
}

/// What is done in a pause besides saving the device state.
pub struct During<F> {
    action: F,
    /// Whether it runs while the device state is saved, rather than after it.
    overlap: bool,
}

impl<T, F: FnOnce() -> Result<T>> During<F> {
    pub fn while_saving(action: F) -> During<F> {
        During { action, overlap: true }
    }

    pub fn after_saving(action: F) -> During<F> {
        During { action, overlap: false }
    }
}

/// A pause that is about to be: all that can be prepared while the guest runs has been.
pub struct Window<'a> {
    monitor: &'a mut Monitor,
    /// The process of the VMM.
    vmm: i32,
    gate: ShutGate<'a>,
    /// Where the device state goes.
    file: File,
    /// It was paused before, and is to stay so.
    was_stopped: bool,
}

impl<'a> Window<'a> {
    pub fn prepare(monitor: &'a mut Monitor, bridge: &'a Bridge, vmm: i32) -> Result<Window<'a>> {
        let file = memfd::create(c"forkd-device-state", 0).step(|| "making a memfd for the device state".into())?;
        offer(monitor, &file)?;
        let was_stopped = monitor.is_stopped()?;
        let gate = bridge.shut();
        Ok(Window {
            monitor,
            vmm,
            gate,
            file,
            was_stopped,
        })
    }

    /// Stops the VM, saves its device state, does what is to be done, and lets it run again if it is to `resume`. Whatever
    /// fails, it runs before this returns, unless it was stopped when the window was prepared.
    pub fn pause<T, F: FnOnce() -> Result<T>>(self, resume: bool, during: During<F>) -> Result<Paused<T>> {
        let Window {
            monitor,
            vmm,
            gate,
            file,
            was_stopped,
        } = self;
        // The guest stands still for as long as one of these waits for a processor: this thread, the VMM's main loop, a vCPU
        // that has not noticed yet that it is to stop.
        let urgent = (Urgent::this_thread(), Urgent::threads_of(vmm));
        let start = Instant::now();
        let result = stop_and_save(monitor, &gate, during);
        let resumed = if (resume || result.is_err()) && !was_stopped {
            monitor.call("cont", json!({})).map(drop)
        } else {
            Ok(())
        };
        let pause = start.elapsed();
        drop((urgent, gate));
        let (value, device_state_time) = result?;
        resumed?;
        monitor.call("remove-fd", json!({ "fdset-id": FDSET }))?;
        Ok(Paused {
            value,
            device_state: read_device_state(file)?,
            pause,
            device_state_time,
        })
    }
}

fn read_device_state(mut file: File) -> Result<Vec<u8>> {
    let mut device_state = Vec::new();
    let read = (&mut file).take(DEVICE_STATE_BYTES_MAX).read_to_end(&mut device_state);
    read.step(|| "reading the device state".into())?;
    if device_state.is_empty() {
        return Err(PagerError::new(FaultCode::Io, "the VMM saved an empty device state"));
    }
    Ok(device_state)
}

/// Gives the VMM a descriptor to save to, so that no path and no permission is needed.
fn offer(monitor: &mut Monitor, file: &File) -> Result<()> {
    // QEMU takes a descriptor only if it is open the way it would open the file itself: for writing alone.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let write_only = OpenOptions::new()
        .write(true)
        .open(path)
        .step(|| "opening a memfd for writing".into())?;
    // An earlier attempt may have failed before it took its descriptor back.
    let _ = monitor.call("remove-fd", json!({ "fdset-id": FDSET }));
    monitor.send_with_fds("add-fd", json!({ "fdset-id": FDSET }), &[write_only.as_fd()])?;
    monitor.reply("add-fd").map(drop)
}

fn stop_and_save<T, F: FnOnce() -> Result<T>>(
    monitor: &mut Monitor,
    gate: &ShutGate<'_>,
    During { action, overlap }: During<F>,
) -> Result<(T, Duration)> {
    // Not `live`: of a VM that stands, that would also give its disks away until it runs again, and a second save before then
    // (of a paused VM) would end the VMM. What is written is the same.
    let save = json!({ "filename": format!("/dev/fdset/{FDSET}"), "live": false });
    let quiet = gate.is_quiet();
    monitor.send("stop", json!({}))?;
    if quiet {
        // Sent with the stop, so that the VMM goes from one to the other without waiting for us.
        monitor.send("xen-save-devices-state", save.clone())?;
    }
    monitor.reply("stop")?;
    if !quiet {
        settle(monitor)?;
        monitor.send("xen-save-devices-state", save)?;
    }
    let start = Instant::now();
    if !overlap {
        monitor.reply("xen-save-devices-state")?;
        let saved = start.elapsed();
        return Ok((action()?, saved));
    }
    let value = action();
    // Whatever became of it, the reply must not be left for the next command.
    monitor.reply("xen-save-devices-state")?;
    Ok((value?, start.elapsed()))
}

/// Lets the VMM's main loop go round, twice, so that whatever it could still move for a stopped VM has been moved.
fn settle(monitor: &mut Monitor) -> Result<()> {
    for _ in 0..2 {
        monitor.call("query-status", json!({}))?;
    }
    Ok(())
}
