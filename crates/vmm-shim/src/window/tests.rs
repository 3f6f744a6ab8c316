//! Pauses that the pager orders of a QEMU whose functions are the tests' own.

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
/// The steps of loading and running.
static STEPS: Mutex<Vec<String>> = Mutex::new(Vec::new());
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
    note("run");
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
unsafe extern "C" fn expect_states() {
    note("expect states");
}
unsafe extern "C" fn apply_states() {
    note("apply states");
}
unsafe extern "C" fn load(file: *mut c_void) -> c_int {
    use std::io::Read;
    use std::os::fd::FromRawFd;
    // SAFETY: the descriptor that the channel was made with. `close` owns it.
    let mut file = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(file as usize as c_int) });
    let mut text = String::new();
    file.read_to_string(&mut text).expect("a device state");
    note(&format!("load {text}"));
    0
}
fn note(step: &str) {
    STEPS.lock().expect("no panic while held").push(step.into());
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
        STEPS.lock().expect("no panic while held").clear();
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
            expect_states,
            apply_states,
            new_input: new_file,
            load,
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

    /// Waits for a state of the pause.
    fn await_state(&self, state: State) {
        self.await_state_of(SERIAL, state);
    }

    /// Waits for a state of the pause `serial`.
    fn await_state_of(&self, serial: u32, state: State) {
        let wanted = state.word(serial);
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
    bench.await_state_of(SERIAL + 1, State::Stopped);
    bench.page.set(ORDER_WORD, Order::Run.word(SERIAL + 1));
    bench.await_state_of(SERIAL + 1, State::Done);
    assert_eq!(bench.vm(), (1, 1, true));
}

/// A QEMU that was started stopped.
fn waiting() -> Bench {
    let bench = Bench::new();
    RUNS.store(false, Ordering::SeqCst);
    bench
}

fn await_progress(bench: &Bench, progress: Progress) {
    let wanted = progress as u32;
    let found = bench
        .page
        .wait(PROGRESS_WORD, Duration::from_secs(20), |value| value == wanted);
    assert_eq!(found, wanted, "{progress:?}");
}

fn steps() -> Vec<String> {
    STEPS.lock().expect("no panic while held").clone()
}

#[test]
fn a_vm_that_is_loaded_ahead_runs_only_when_that_is_ordered() {
    let bench = waiting();
    bench.window.load(b"QEVM\0\0\0\x03state", false).expect("begun");
    bench.window.wait_until_loaded().expect("loaded");
    await_progress(&bench, Progress::Loaded);
    assert_eq!(
        (steps(), bench.vm()),
        (vec!["expect states".into(), "load state".into()], (0, 0, false))
    );
    bench.window.run();
    await_progress(&bench, Progress::Runs);
    assert_eq!(steps()[2..], ["apply states", "run"]);
    assert_eq!(bench.vm(), (0, 1, true));
}

#[test]
fn a_vm_that_is_loaded_for_somebody_who_waits_runs_at_once() {
    let bench = waiting();
    bench.window.load(b"QEVM\0\0\0\x03state", true).expect("begun");
    await_progress(&bench, Progress::Runs);
    assert_eq!(steps(), ["expect states", "load state", "run"]);
}

#[test]
fn a_device_state_of_another_format_is_not_loaded() {
    let bench = waiting();
    for state in [&b""[..], b"QEVM\0\0\0\x02state", b"QEVM"] {
        bench.window.load(state, true).expect_err("another header");
    }
    assert_eq!((steps(), bench.vm()), (Vec::new(), (0, 0, false)));
}
