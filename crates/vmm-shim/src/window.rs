//! Conducts the pause window from QEMU's main loop, as the pager orders through a page that both map.
//!
//! The functions are QEMU's own, which distributions export for QEMU's modules, called as QEMU's monitor calls them: in a
//! bottom half of the context in which monitor commands run, so never inside a drain. Their signatures are those of the
//! versions for which the engine sets `FORKD_SHIM_WINDOW`.

use forkd_linux_sys::shared_page::SharedPage;
use forkd_protocol::window::{ORDER_WAIT_MAX, ORDER_WORD, Order, PAUSE_NS_WORD, SAVE_NS_WORD, STATE_WORD, State};
use libc::{c_char, c_int, c_void};
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

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

fn nanoseconds(time: Duration) -> u32 {
    time.as_nanos().try_into().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use forkd_linux_sys::memfd;
    use std::sync::atomic::{AtomicBool, AtomicU32};
    use std::sync::{Mutex, MutexGuard};

    const SERIAL: u32 = 5;
    const STATE_BYTES: &[u8] = b"device state";

    /// A QEMU with one VM. Its functions have no argument to keep these in.
    static RUNS: AtomicBool = AtomicBool::new(true);
    static STARTS: AtomicU32 = AtomicU32::new(0);
    static STOPS: AtomicU32 = AtomicU32::new(0);
    static SAVE_FAILS: AtomicBool = AtomicBool::new(false);
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    unsafe extern "C" fn schedule(_: *mut c_void, run: Run, opaque: *mut c_void, _: *const c_char) {
        let opaque = opaque as usize;
        // SAFETY: as QEMU does, calls the function with its argument.
        std::thread::spawn(move || unsafe { run(opaque as *mut c_void) });
    }
    unsafe extern "C" fn nothing() -> *mut c_void {
        std::ptr::null_mut()
    }
    unsafe extern "C" fn is_running() -> bool {
        RUNS.load(Ordering::SeqCst)
    }
    unsafe extern "C" fn vm_stop(_: c_int) -> c_int {
        STOPS.fetch_add(1, Ordering::SeqCst);
        RUNS.store(false, Ordering::SeqCst);
        0
    }
    unsafe extern "C" fn vm_start() {
        STARTS.fetch_add(1, Ordering::SeqCst);
        RUNS.store(true, Ordering::SeqCst);
    }
    unsafe extern "C" fn store_running() {}
    unsafe extern "C" fn new_channel(fd: c_int) -> *mut c_void {
        fd as usize as *mut c_void
    }
    unsafe extern "C" fn new_file(channel: *mut c_void) -> *mut c_void {
        channel
    }
    unsafe extern "C" fn unref(_: *mut c_void) {}
    unsafe extern "C" fn save(_: *mut c_void) -> c_int {
        if SAVE_FAILS.load(Ordering::SeqCst) { -5 } else { 0 }
    }
    unsafe extern "C" fn close(file: *mut c_void) -> c_int {
        use std::io::Write;
        use std::os::fd::FromRawFd;
        // SAFETY: the descriptor that the channel was made with, which nothing else owns.
        let mut file = unsafe { File::from_raw_fd(file as usize as c_int) };
        file.write_all(STATE_BYTES).map_or(-1, |()| 0)
    }

    /// A window of this QEMU, whose VM runs, seen from the pager.
    struct Bench {
        window: Window,
        page: SharedPage,
        file: File,
        _alone: MutexGuard<'static, ()>,
    }

    impl Bench {
        fn new() -> Bench {
            let alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            RUNS.store(true, Ordering::SeqCst);
            SAVE_FAILS.store(false, Ordering::SeqCst);
            STARTS.store(0, Ordering::SeqCst);
            STOPS.store(0, Ordering::SeqCst);
            let functions = Functions {
                schedule,
                monitor_context: nothing,
                is_running,
                vm_stop,
                vm_start,
                store_running,
                new_channel,
                new_file,
                unref,
                save,
                close,
                paused: 4,
            };
            let (window, file) = Window::create(functions).expect("a window");
            Bench {
                window,
                page: SharedPage::adopt(file.into()).expect("adopted"),
                file: memfd::create(c"forkd-test", 0).expect("a memfd"),
                _alone: alone,
            }
        }

        fn order(&self, order: Order) {
            self.page.set(ORDER_WORD, order.word(SERIAL));
        }

        fn begin(&self) {
            self.window.begin(self.file.try_clone().expect("a duplicate").into());
        }

        /// Waits for a state.
        fn await_state(&self, state: State) {
            let wanted = state.word(SERIAL);
            let found = self
                .page
                .wait(STATE_WORD, Duration::from_secs(20), |value| value == wanted);
            assert_eq!(found, wanted, "{state:?}");
        }

        /// Begins a pause, and waits until the VM is stopped.
        fn stopped(&self) {
            self.order(Order::Pause);
            self.begin();
            self.await_state(State::Stopped);
        }

        /// How often the VM was stopped and started, and whether it runs.
        fn vm(&self) -> (u32, u32, bool) {
            let [stops, starts] = [&STOPS, &STARTS].map(|count| count.load(Ordering::SeqCst));
            (stops, starts, RUNS.load(Ordering::SeqCst))
        }
    }

    #[test]
    fn a_vm_stays_stopped_until_the_order_to_run_and_its_state_is_in_the_file() {
        let bench = Bench::new();
        bench.stopped();
        assert_eq!(bench.vm(), (1, 0, false));
        bench.order(Order::Run);
        bench.await_state(State::Done);
        assert_eq!(bench.vm(), (1, 1, true));
        let mut saved = [0; STATE_BYTES.len()];
        std::os::unix::fs::FileExt::read_exact_at(&bench.file, &mut saved, 0).expect("a device state");
        assert_eq!(saved, STATE_BYTES);
        assert!(bench.page.word(PAUSE_NS_WORD).load(Ordering::Relaxed) > 0);
    }

    #[test]
    fn a_vm_that_is_ordered_to_stay_stays_stopped() {
        let bench = Bench::new();
        bench.stopped();
        bench.order(Order::Stay);
        bench.await_state(State::Done);
        assert_eq!(bench.vm(), (1, 0, false));
    }

    #[test]
    fn a_vm_whose_state_cannot_be_saved_runs_whatever_the_order() {
        for order in [Order::Run, Order::Stay] {
            let bench = Bench::new();
            SAVE_FAILS.store(true, Ordering::SeqCst);
            bench.stopped();
            bench.order(order);
            bench.await_state(State::Failed);
            assert_eq!(bench.vm(), (1, 1, true));
        }
    }

    #[test]
    fn a_vm_whose_pager_ends_in_the_pause_runs() {
        let bench = Bench::new();
        bench.stopped();
        bench.window.abandon();
        bench.await_state(State::Failed);
        assert_eq!(bench.vm(), (1, 1, true));
    }

    #[test]
    fn a_vm_whose_pager_gives_no_order_runs_after_the_longest_wait() {
        let bench = Bench::new();
        bench.stopped();
        bench.await_state(State::Failed);
        assert_eq!(bench.vm(), (1, 1, true));
    }

    #[test]
    fn a_vm_that_does_not_run_is_left_alone() {
        let bench = Bench::new();
        RUNS.store(false, Ordering::SeqCst);
        bench.order(Order::Pause);
        bench.begin();
        bench.await_state(State::WasStopped);
        assert_eq!(bench.vm(), (0, 0, false));
    }

    #[test]
    fn a_pause_that_was_given_up_before_it_began_stops_nothing() {
        let bench = Bench::new();
        bench.order(Order::Run);
        bench.begin();
        // A later pause is conducted, and its state is not taken for that of the earlier one.
        bench.page.set(ORDER_WORD, Order::Pause.word(SERIAL + 1));
        bench.begin();
        let wanted = State::Stopped.word(SERIAL + 1);
        assert_eq!(
            bench
                .page
                .wait(STATE_WORD, Duration::from_secs(20), |value| value == wanted),
            wanted
        );
        bench.page.set(ORDER_WORD, Order::Run.word(SERIAL + 1));
        let done = State::Done.word(SERIAL + 1);
        assert_eq!(
            bench
                .page
                .wait(STATE_WORD, Duration::from_secs(20), |value| value == done),
            done
        );
        assert_eq!(bench.vm(), (1, 1, true));
    }
}
