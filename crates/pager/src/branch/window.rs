//! The pause window: vCPUs stopped → vCPUs running again.

use crate::bridge::{Bridge, ShutGate};
use crate::error::{PagerError, Result, Step};
use crate::monitor::Monitor;
use forkd_linux_sys::memfd;
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

/// What is done with the VM in a pause.
pub struct Pause {
    /// Whether it runs on afterwards.
    pub resume: bool,
    /// Whether `during` runs while the device state is saved, rather than after it.
    pub overlap: bool,
}

/// Stops the VM, saves its device state, runs `during`, and lets it run again. Whatever fails, it runs before this returns.
pub fn pause<T>(
    monitor: &mut Monitor,
    bridge: &Bridge,
    how: Pause,
    during: impl FnOnce() -> Result<T>,
) -> Result<Paused<T>> {
    // All that can be prepared is prepared while the guest runs.
    let mut file = memfd::create(c"forkd-device-state", 0).step(|| "making a memfd for the device state".into())?;
    offer(monitor, &file)?;
    let gate = bridge.shut();
    let start = Instant::now();
    let result = stop_and_save(monitor, &gate, how.overlap, during);
    let resumed = if how.resume || result.is_err() {
        monitor.call("cont", json!({})).map(drop)
    } else {
        Ok(())
    };
    let pause = start.elapsed();
    drop(gate);
    let (value, device_state_time) = result?;
    resumed?;
    monitor.call("remove-fd", json!({ "fdset-id": FDSET }))?;
    let mut device_state = Vec::new();
    let read = (&mut file).take(DEVICE_STATE_BYTES_MAX).read_to_end(&mut device_state);
    read.step(|| "reading the device state".into())?;
    if device_state.is_empty() {
        return Err(PagerError::new(FaultCode::Io, "the VMM saved an empty device state"));
    }
    Ok(Paused {
        value,
        device_state,
        pause,
        device_state_time,
    })
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

fn stop_and_save<T>(
    monitor: &mut Monitor,
    gate: &ShutGate<'_>,
    overlap: bool,
    during: impl FnOnce() -> Result<T>,
) -> Result<(T, Duration)> {
    let save = json!({ "filename": format!("/dev/fdset/{FDSET}"), "live": true });
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
        return Ok((during()?, saved));
    }
    let value = during();
    // Whatever became of `during`, the reply must not be left for the next command.
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
