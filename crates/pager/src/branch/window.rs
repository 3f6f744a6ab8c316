//! The pause window: vCPUs stopped → vCPUs running again.

use super::disk::DiskEpoch;
use crate::bridge::{Bridge, ShutGate};
use crate::control::{Control, PATIENCE};
use crate::error::{PagerError, Result, Step};
use crate::inside::InsideWindow;
use forkd_linux_sys::memfd;
use forkd_linux_sys::sched::UrgentPause;
use forkd_protocol::plan::DEVICE_STATE_BYTES_MAX;
use forkd_protocol::{FaultCode, WindowKind};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// The longest time that a VM is stopped for the work of its VMM, and that the VMM's threads have priority over
/// ordinary ones. Copies that the pager makes in the pause come on top, without that priority.
const WINDOW_MAX: Duration = Duration::from_secs(2);
/// Longest time for a VMM, after the window, to resume its VM and to close the device state's file.
const AFTER_MAX: Duration = Duration::from_secs(2);

/// The result of a pause.
pub struct Paused {
    pub device_state: Vec<u8>,
    pub pause: Duration,
    pub device_state_time: Duration,
    pub window: WindowKind,
    /// The epoch of the VM's disk that began in the pause.
    pub disk_epoch: Option<u64>,
}

pub type Action<'a> = Box<dyn FnOnce() -> Result<()> + 'a>;

/// Actions in a pause, beside saving the device state.
#[derive(Default)]
pub struct During<'a> {
    /// The VM's disk, whose next epoch begins once the VM has stopped.
    pub disk: Option<&'a DiskEpoch>,
    /// Run while the device state is saved, if saving never writes guest memory. Otherwise run after the save. Takes
    /// less time than the save.
    pub while_saving: Option<Action<'a>>,
    /// Run after the save, however long it takes.
    pub after_saving: Option<Action<'a>>,
}

/// A prepared pause: everything that can be done while the guest runs has been done.
pub struct Window<'a> {
    control: &'a mut dyn Control,
    /// The pid of the VMM.
    vmm: i32,
    gate: ShutGate<'a>,
    /// The file for the device state.
    file: File,
    /// True if the VM was paused before. It then stays paused.
    was_stopped: bool,
    /// The shim that conducts the pause. `None`: the monitor.
    inside: Option<&'a InsideWindow>,
}

impl<'a> Window<'a> {
    /// Prepares a pause that `inside` conducts, if there is such a shim and the VM runs.
    pub fn prepare(
        control: &'a mut dyn Control,
        bridge: &'a Bridge,
        vmm: i32,
        inside: Option<&'a InsideWindow>,
    ) -> Result<Window<'a>> {
        let file = device_state_file()?;
        control.allow(PATIENCE);
        let was_stopped = control.is_stopped()?;
        let inside = inside.filter(|_| !was_stopped);
        if inside.is_none() {
            control.save_to(&file)?;
        }
        let gate = bridge.shut();
        Ok(Window {
            control,
            vmm,
            gate,
            file,
            was_stopped,
            inside,
        })
    }

    /// Stops the VM, saves its device state, does the actions of `during`, and resumes the VM if `resume` is true.
    /// After any failure the VM is resumed before this returns, unless it was stopped when the window was prepared.
    pub fn pause(mut self, resume: bool, during: During<'_>) -> Result<Paused> {
        if self.inside.is_some() && !self.gate.is_quiet() {
            // The VMM needs turns of its main loop between the stop and the save, to move these bytes.
            self.inside = None;
            self.control.save_to(&self.file)?;
        }
        let Window {
            control,
            vmm,
            gate,
            file,
            was_stopped,
            inside,
        } = self;
        let During {
            disk,
            while_saving,
            after_saving,
        } = during;
        let mut disk_epoch = None;
        let once_stopped: Action<'_> = Box::new(|| {
            disk_epoch = disk.map(DiskEpoch::advance);
            while_saving.map_or(Ok(()), |action| action())
        });
        // The guest stays stopped while any of these threads waits for a processor: this one, the VMM's main loop, or a
        // vCPU that has not seen the request to stop.
        let mut urgent = Some(UrgentPause::of(vmm));
        control.allow(WINDOW_MAX);
        let resumes_inside = resume && after_saving.is_none();
        let start = Instant::now();
        let mut result = match inside {
            Some(inside) => {
                let times = inside.pause(&file, resumes_inside, start + WINDOW_MAX, once_stopped);
                times.map(|times| (times.saving, resumes_inside.then_some(times.pause)))
            }
            None => stop_and_save(control, &gate, once_stopped).map(|saving| (saving, None)),
        };
        if result.is_err() || after_saving.is_some() {
            urgent = None;
        }
        if let Some(action) = after_saving {
            result = result.and_then(|saved| action().map(|()| saved));
        }
        let is_running = matches!(result, Ok((_, Some(_))));
        let resumed = if (resume || result.is_err()) && !was_stopped && !is_running {
            go_on(control, &mut urgent)
        } else {
            Ok(())
        };
        let passed = start.elapsed();
        drop((urgent, gate));
        let (device_state_time, pause_inside) = result?;
        resumed?;
        if inside.is_none() {
            control.allow(AFTER_MAX);
            control.forget_file()?;
        }
        Ok(Paused {
            device_state: read_device_state(&file)?,
            // The VMM may not say that it took longer than it did.
            pause: pause_inside.map_or(passed, |pause| pause.min(passed)),
            device_state_time,
            window: inside.map_or(WindowKind::Monitor, |_| WindowKind::Inside),
            disk_epoch,
        })
    }
}

/// Saves the device state of a VM that is stopped, and whose channel is quiet.
pub fn save_stopped(control: &mut dyn Control) -> Result<Vec<u8>> {
    let file = device_state_file()?;
    control.save_to(&file)?;
    control.stop_and_save(true)?;
    control.saved()?;
    control.forget_file()?;
    read_device_state(&file)
}

fn device_state_file() -> Result<File> {
    memfd::create(c"forkd-device-state", 0).step(|| "making a memfd for the device state".into())
}

/// Resumes the VM. The rest of the window is enough for an honest VMM. A slower VMM is asked once more, without priority.
fn go_on(control: &mut dyn Control, urgent: &mut Option<UrgentPause>) -> Result<()> {
    let is_within_the_window = urgent.is_some();
    if is_within_the_window && control.go_on().is_ok() {
        return Ok(());
    }
    *urgent = None;
    control.allow(AFTER_MAX);
    control.go_on()
}

/// Reads the device state, and empties the file: the VMM may have kept its descriptor.
fn read_device_state(file: &File) -> Result<Vec<u8>> {
    let bytes = file.metadata().step(|| "looking at the device state".into())?.len();
    let mut device_state = vec![0; bytes.min(DEVICE_STATE_BYTES_MAX) as usize];
    let read = file.read_exact_at(&mut device_state, 0);
    memfd::empty(file).step(|| "freeing the device state's file".into())?;
    if bytes > DEVICE_STATE_BYTES_MAX {
        let message = format!("the VMM saved a device state of {bytes} bytes; {DEVICE_STATE_BYTES_MAX} are allowed");
        return Err(PagerError::new(FaultCode::Io, message));
    }
    read.step(|| "reading the device state".into())?;
    if device_state.is_empty() {
        return Err(PagerError::new(FaultCode::Io, "the VMM saved an empty device state"));
    }
    Ok(device_state)
}

/// Stops the VM, saves its device state, and runs `action`. Returns the time that saving took.
fn stop_and_save(control: &mut dyn Control, gate: &ShutGate<'_>, action: Action<'_>) -> Result<Duration> {
    control.stop_and_save(gate.is_quiet())?;
    let start = Instant::now();
    if !control.saves_without_writing() {
        control.saved()?;
        let saved = start.elapsed();
        return action().map(|()| saved);
    }
    let done = action();
    // Even if the action failed, saving must be over before the VM runs again.
    control.saved()?;
    done.map(|()| start.elapsed())
}
