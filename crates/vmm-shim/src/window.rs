//! Conducts the pause window from QEMU's main loop, as the pager orders through a page that both map, and loads the device state
//! of a VMM that waited for its VM there.
//!
//! The functions are QEMU's own, which distributions export for QEMU's modules, called as QEMU's monitor calls them: in a
//! bottom half of the context in which monitor commands run, so never inside a drain. Their signatures are those of the
//! versions for which the engine sets `FORKD_SHIM_WINDOW`.

use forkd_linux_sys::memfd;
use forkd_linux_sys::shared_page::SharedPage;
use forkd_protocol::window::{
    ORDER_WAIT_MAX, ORDER_WORD, Order, PAUSE_NS_WORD, PROGRESS_WORD, Progress, SAVE_NS_WORD, STATE_WORD, State,
};
use libc::{c_char, c_int, c_void};
use std::ffi::CStr;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The first bytes of a saved device state: a magic and the version of the format. The function that loads one expects the bytes
/// after them.
const STATE_HEADER: &[u8; 8] = b"QEVM\0\0\0\x03";

/// Longest time for QEMU to load a device state.
const LOAD_MAX: Duration = Duration::from_secs(10);

type Run = unsafe extern "C" fn(*mut c_void);

/// QEMU's functions.
#[derive(Clone, Copy)]
pub struct Functions {
    schedule: unsafe extern "C" fn(*mut c_void, Run, *mut c_void, *const c_char),
    monitor_context: unsafe extern "C" fn() -> *mut c_void,
    is_running: unsafe extern "C" fn() -> bool,
    vm_stop: unsafe extern "C" fn(c_int) -> c_int,
    vm_start: unsafe extern "C" fn(),
    store_running: unsafe extern "C" fn(),
    new_channel: unsafe extern "C" fn(c_int) -> *mut c_void,
    new_file: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    unref: unsafe extern "C" fn(*mut c_void),
    save: unsafe extern "C" fn(*mut c_void) -> c_int,
    close: unsafe extern "C" fn(*mut c_void) -> c_int,
    expect_states: unsafe extern "C" fn(),
    apply_states: unsafe extern "C" fn(),
    new_input: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    load: unsafe extern "C" fn(*mut c_void) -> c_int,
    /// QEMU's number for the run state `paused`.
    paused: c_int,
}

impl Functions {
    /// Finds them all by name. `None` if this program does not export one of them.
    pub fn find() -> Option<Functions> {
        // SAFETY: these names have had these signatures in all versions of QEMU for which this is called.
        unsafe {
            Some(Functions {
                schedule: function(c"aio_bh_schedule_oneshot_full")?,
                monitor_context: function(c"iohandler_get_aio_context")?,
                is_running: function(c"runstate_is_running")?,
                vm_stop: function(c"vm_stop")?,
                vm_start: function(c"vm_start")?,
                store_running: function(c"global_state_store_running")?,
                new_channel: function(c"qio_channel_file_new_fd")?,
                new_file: function(c"qemu_file_new_output")?,
                unref: function(c"object_unref")?,
                save: function(c"qemu_save_device_state")?,
                close: function(c"qemu_fclose")?,
                expect_states: function(c"cpu_synchronize_all_pre_loadvm")?,
                apply_states: function(c"cpu_synchronize_all_post_init")?,
                new_input: function(c"qemu_file_new_input")?,
                load: function(c"qemu_load_device_state")?,
                paused: paused()?,
            })
        }
    }
}

/// QEMU's number for the run state `paused`, which QEMU looks up by that name.
///
/// # Safety
/// The program is a QEMU whose `qapi_enum_parse` has the known signature.
unsafe fn paused() -> Option<c_int> {
    type Parse = unsafe extern "C" fn(*mut c_void, *const c_char, c_int, *mut *mut c_void) -> c_int;
    // SAFETY: as the caller vouches for.
    let parse: Parse = unsafe { function(c"qapi_enum_parse") }?;
    let states = symbol(c"RunState_lookup")?;
    // SAFETY: the caller vouches for the signature. No error is asked for.
    let number = unsafe { parse(states, c"paused".as_ptr(), -1, std::ptr::null_mut()) };
    (number >= 0).then_some(number)
}

/// The function of that name.
///
/// # Safety
/// `F` is a function pointer with the function's signature.
unsafe fn function<F: Copy>(name: &CStr) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>(), "a function pointer") };
    // SAFETY: both have the size of a pointer, and the caller vouches for the type.
    symbol(name).map(|found| unsafe { std::mem::transmute_copy::<*mut c_void, F>(&found) })
}

fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: looks up a name among the loaded objects, without any other effect.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

/// The window of one pager.
pub struct Window {
    functions: Functions,
    page: Arc<SharedPage>,
}

impl Window {
    /// Creates a window, and the file of its page for the pager.
    pub fn create(functions: Functions) -> Result<(Window, File), String> {
        let (page, file) = SharedPage::create().map_err(|error| format!("making a shared page: {error}"))?;
        let page = Arc::new(page);
        Ok((Window { functions, page }, file))
    }

    /// Lets the main loop conduct the pause that the page orders. The device state goes to `file`.
    pub fn begin(&self, file: OwnedFd) {
        let Functions {
            schedule,
            monitor_context,
            ..
        } = self.functions;
        let pause = Box::new(Pause {
            functions: self.functions,
            page: self.page.clone(),
            serial: self.page.word(ORDER_WORD).load(Ordering::Acquire) >> 4,
            file,
        });
        // SAFETY: QEMU calls `conduct` once, with this pointer. Any thread may schedule.
        unsafe {
            let pause = Box::into_raw(pause).cast();
            schedule(monitor_context(), conduct, pause, c"forkd-window".as_ptr());
        }
    }

    /// Lets the main loop load a device state, and then run the VM if `runs` is true. QEMU was started stopped. Its memory is that
    /// of the VM.
    pub fn load(&self, device_state: &[u8], runs: bool) -> Result<(), String> {
        let state = device_state
            .strip_prefix(STATE_HEADER)
            .ok_or("the device state begins with another header")?;
        let file = memfd::create(c"forkd-device-state", 0)
            .and_then(|mut file| file.write_all(state).and_then(|()| file.rewind()).map(|()| file));
        let file = file.map_err(|error| format!("keeping the device state: {error}"))?;
        self.start(Some(file.into()), runs);
        Ok(())
    }

    /// Lets the main loop run a VM that has been loaded.
    pub fn run(&self) {
        self.start(None, true);
    }

    /// Waits until the device state has been loaded.
    pub fn wait_until_loaded(&self) -> Result<(), String> {
        let is_loaded = |progress| progress >= Progress::Loaded as u32;
        let progress = self.page.wait(PROGRESS_WORD, LOAD_MAX, is_loaded);
        is_loaded(progress)
            .then_some(())
            .ok_or("QEMU did not load the device state in time".into())
    }

    fn start(&self, state: Option<OwnedFd>, runs: bool) {
        let Functions {
            schedule,
            monitor_context,
            ..
        } = self.functions;
        let start = Box::new(Start {
            functions: self.functions,
            page: self.page.clone(),
            state,
            runs,
        });
        // SAFETY: QEMU calls `start` once, with this pointer. Any thread may schedule.
        unsafe {
            schedule(
                monitor_context(),
                begin,
                Box::into_raw(start).cast(),
                c"forkd-start".as_ptr(),
            )
        };
    }

    /// Withdraws the order of a pager that has ended: a VM that waits for its next order is resumed.
    pub fn abandon(&self) {
        self.page.set(ORDER_WORD, 0);
    }
}

/// A pause that has been ordered.
struct Pause {
    functions: Functions,
    page: Arc<SharedPage>,
    serial: u32,
    file: OwnedFd,
}

/// # Safety
/// `pause` comes from a `Box<Pause>`, and QEMU calls this in its main loop.
unsafe extern "C" fn conduct(pause: *mut c_void) {
    // SAFETY: as the caller vouches for.
    unsafe { Box::from_raw(pause.cast::<Pause>()).conduct() };
}

impl Pause {
    /// # Safety
    /// Called in QEMU's main loop.
    unsafe fn conduct(self) {
        let Pause {
            functions: qemu,
            page,
            serial,
            file,
        } = self;
        let is_ordered = |order: u32| order == Order::Pause.word(serial);
        // The pager may have given up meanwhile.
        if !is_ordered(page.word(ORDER_WORD).load(Ordering::Acquire)) {
            return;
        }
        // SAFETY: QEMU's functions, called in the order and in the place in which its monitor's commands call them. The
        // channel owns the descriptor, and the file the channel. Closing the file ends both.
        unsafe {
            if !(qemu.is_running)() {
                page.set(STATE_WORD, State::WasStopped.word(serial));
                return;
            }
            let start = Instant::now();
            (qemu.vm_stop)(qemu.paused);
            page.set(STATE_WORD, State::Stopped.word(serial));
            let stopped = Instant::now();
            // The state that the snapshot's children have once they are loaded.
            (qemu.store_running)();
            let channel = (qemu.new_channel)(file.into_raw_fd());
            let out = (qemu.new_file)(channel);
            (qemu.unref)(channel);
            let is_saved = (qemu.save)(out) >= 0;
            let saving = stopped.elapsed();
            let order = page.wait(ORDER_WORD, ORDER_WAIT_MAX.saturating_sub(saving), |order| {
                !is_ordered(order)
            });
            let stays = is_saved && order == Order::Stay.word(serial);
            if !stays {
                (qemu.vm_start)();
            }
            let pause = start.elapsed();
            // Most of the device state is written only now.
            let is_written = (qemu.close)(out) >= 0;
            let is_obeyed = stays != (qemu.is_running)() && (stays || order == Order::Run.word(serial));
            page.word(PAUSE_NS_WORD).store(nanoseconds(pause), Ordering::Relaxed);
            page.word(SAVE_NS_WORD).store(nanoseconds(saving), Ordering::Relaxed);
            let state = if is_saved && is_written && is_obeyed {
                State::Done
            } else {
                State::Failed
            };
            page.set(STATE_WORD, state.word(serial));
        }
    }
}

/// A VM that has been ordered to be loaded, or to run.
struct Start {
    functions: Functions,
    page: Arc<SharedPage>,
    /// The file of the device state, if it has not been loaded yet.
    state: Option<OwnedFd>,
    runs: bool,
}

/// # Safety
/// `start` comes from a `Box<Start>`, and QEMU calls this in its main loop.
unsafe extern "C" fn begin(start: *mut c_void) {
    // SAFETY: as the caller vouches for.
    let started = unsafe { Box::from_raw(start.cast::<Start>()).begin() };
    started.unwrap_or_else(|error| crate::give_up(error));
}

impl Start {
    /// # Safety
    /// Called in QEMU's main loop.
    unsafe fn begin(self) -> Result<(), &'static str> {
        let Start {
            functions: qemu,
            page,
            state,
            runs,
        } = self;
        // SAFETY: QEMU's functions, called in the order in which QEMU loads and starts a VM. The channel owns the descriptor, and
        // the file the channel. Closing the file ends both.
        unsafe {
            if let Some(state) = state {
                (qemu.expect_states)();
                let channel = (qemu.new_channel)(state.into_raw_fd());
                let input = (qemu.new_input)(channel);
                (qemu.unref)(channel);
                let is_loaded = (qemu.load)(input) >= 0;
                if (qemu.close)(input) < 0 || !is_loaded {
                    return Err("QEMU did not load the device state");
                }
            } else {
                // The counters of processors have gone on in KVM since the state was loaded. They begin once more where it says.
                (qemu.apply_states)();
            }
            if runs {
                (qemu.vm_start)();
                if !(qemu.is_running)() {
                    return Err("QEMU did not run the VM");
                }
            }
        }
        let progress = if runs { Progress::Runs } else { Progress::Loaded };
        page.set(PROGRESS_WORD, progress as u32);
        Ok(())
    }
}

fn nanoseconds(time: Duration) -> u32 {
    time.as_nanos().try_into().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
