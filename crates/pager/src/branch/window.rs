//! The pause window: vCPUs stopped → vCPUs running again.

use crate::bridge::{Bridge, ShutGate};
use crate::control::Control;
use crate::error::{PagerError, Result, Step};
use forkd_linux_sys::memfd;
use forkd_linux_sys::sched::Urgent;
use forkd_protocol::FaultCode;
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

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
    /// Whether it may run while the device state is saved, rather than after it.
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
    control: &'a mut dyn Control,
    /// The process of the VMM.
    vmm: i32,
    gate: ShutGate<'a>,
    /// Where the device state goes.
    file: File,
    /// It was paused before, and is to stay so.
    was_stopped: bool,
}

impl<'a> Window<'a> {
    pub fn prepare(control: &'a mut dyn Control, bridge: &'a Bridge, vmm: i32) -> Result<Window<'a>> {
        let file = memfd::create(c"forkd-device-state", 0).step(|| "making a memfd for the device state".into())?;
        control.save_to(&file)?;
        let was_stopped = control.is_stopped()?;
        let gate = bridge.shut();
        Ok(Window {
            control,
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
            control,
            vmm,
            gate,
            file,
            was_stopped,
        } = self;
        // The guest stands still for as long as one of these waits for a processor: this thread, the VMM's main loop, a vCPU
        // that has not noticed yet that it is to stop.
        let urgent = (Urgent::this_thread(), Urgent::threads_of(vmm));
        let start = Instant::now();
        let result = stop_and_save(control, &gate, during);
        let resumed = if (resume || result.is_err()) && !was_stopped {
            control.go_on()
        } else {
            Ok(())
        };
        let pause = start.elapsed();
        drop((urgent, gate));
        let (value, device_state_time) = result?;
        resumed?;
        control.forget_file()?;
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

fn stop_and_save<T, F: FnOnce() -> Result<T>>(
    control: &mut dyn Control,
    gate: &ShutGate<'_>,
    During { action, overlap }: During<F>,
) -> Result<(T, Duration)> {
    control.stop_and_save(gate.is_quiet())?;
    let start = Instant::now();
    if !overlap || !control.saves_without_writing() {
        control.saved()?;
        let saved = start.elapsed();
        return Ok((action()?, saved));
    }
    let value = action();
    // Whatever became of it, the reply must not be left for the next command.
    control.saved()?;
    Ok((value?, start.elapsed()))
}
