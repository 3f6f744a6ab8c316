//! The pause window conducted by the shim inside QEMU, instead of over the monitor.

use crate::error::{PagerError, Result, Step};
use forkd_linux_sys::fds::{self, Wait};
use forkd_linux_sys::shared_page::SharedPage;
use forkd_protocol::FaultCode;
use forkd_protocol::window::{
    ORDER_WORD, Order, PAUSE_NS_WORD, PROGRESS_WORD, Progress, SAVE_NS_WORD, STATE_WORD, State, run_order,
};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How often a wait checks that the VMM still lives.
const LOOK: Duration = Duration::from_millis(20);
/// Serial numbers begin again here.
const SERIAL_MAX: u32 = 1 << 28;

/// A shim that conducts pauses. The VMM behind it is not trusted: what it says about a pause concerns its own snapshot.
#[derive(Debug)]
pub struct InsideWindow {
    page: SharedPage,
    socket: UnixStream,
    last_serial: AtomicU32,
}

/// The times of a pause, as the shim has measured them.
pub struct InsideTimes {
    pub pause: Duration,
    pub saving: Duration,
}

impl InsideWindow {
    /// Takes over the page that a shim has sent on `socket`.
    pub fn adopt(page: OwnedFd, socket: &UnixStream) -> io::Result<InsideWindow> {
        Ok(InsideWindow {
            page: SharedPage::adopt(page)?,
            socket: socket.try_clone()?,
            last_serial: AtomicU32::new(0),
        })
    }

    /// Stops the VM, has its device state saved to `file`, runs `action` meanwhile, and runs the VM if `resume` is true.
    ///
    /// After a failure the shim runs the VM, as soon as its main loop gets to it.
    pub fn pause(
        &self,
        file: &File,
        resume: bool,
        until: Instant,
        action: impl FnOnce() -> Result<()>,
    ) -> Result<InsideTimes> {
        // A shim reads each byte at once. With nothing unread, sending one never waits.
        if fds::unread_by_peer(&self.socket).step(|| "looking at the shim's socket".into())? > 0 {
            return Err(PagerError::gone("the shim has not begun the last pause"));
        }
        let serial = (self.last_serial.fetch_add(1, Ordering::Relaxed) + 1) % SERIAL_MAX;
        self.order(Order::Pause, serial);
        let sent = fds::send_with_fds(&self.socket, &[1], &[file.as_fd()]);
        let sent = sent.map_err(|error| PagerError::gone(format!("asking the shim for a pause: {error}")));
        let acted = sent
            .and_then(|()| self.wait(serial, until, |state| state == State::Stopped))
            .and_then(|()| action());
        let order = if acted.is_ok() && !resume {
            Order::Stay
        } else {
            Order::Run
        };
        self.order(order, serial);
        let ended = acted.and_then(|()| self.wait(serial, until, |state| state == State::Done));
        ended.map(|()| InsideTimes {
            pause: self.time(PAUSE_NS_WORD),
            saving: self.time(SAVE_NS_WORD),
        })
    }

    /// Tells a VMM that has loaded a VM to run it under this name.
    pub fn order_run(&self, name: &str) -> Result<()> {
        let order = run_order(name).map_err(|why| PagerError::new(FaultCode::BadRequest, why))?;
        let sent = (&self.socket).write_all(&order);
        sent.map_err(|error| PagerError::gone(format!("telling the shim to run {name}: {error}")))
    }

    /// Waits until a VMM that waited for its VM has got this far.
    pub fn await_progress(&self, progress: Progress, until: Instant) -> Result<()> {
        let is_met = |value| value >= progress as u32;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if is_met(self.page.wait(PROGRESS_WORD, left.min(LOOK), is_met)) {
                return Ok(());
            }
            if left.is_zero() {
                return Err(PagerError::gone("the VMM did not load and run its VM in time"));
            }
            if self.is_ended() {
                return Err(PagerError::gone("the VMM ended before it ran its VM"));
            }
        }
    }

    fn is_ended(&self) -> bool {
        let ended = fds::look(&[Wait::ending(&self.socket)], Some(Duration::ZERO));
        ended.is_ok_and(|ended| ended[0].is_any())
    }

    fn order(&self, order: Order, serial: u32) {
        self.page.set(ORDER_WORD, order.word(serial));
    }

    fn time(&self, word: usize) -> Duration {
        Duration::from_nanos(self.page.word(word).load(Ordering::Relaxed).into())
    }

    /// Waits for a state. Any other state than `Stopped` before it is a failure.
    fn wait(&self, serial: u32, until: Instant, is_met: impl Fn(State) -> bool) -> Result<()> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let is_over =
                |value| State::of(value, serial).is_some_and(|state| is_met(state) || state != State::Stopped);
            let value = self.page.wait(STATE_WORD, left.min(LOOK), is_over);
            match State::of(value, serial) {
                Some(state) if is_met(state) => return Ok(()),
                Some(State::Done) => return Err(PagerError::gone("the shim ended the pause unasked")),
                Some(State::WasStopped) => return Err(PagerError::new(FaultCode::Busy, "the VM did not run")),
                Some(State::Failed) => {
                    return Err(PagerError::new(
                        FaultCode::Io,
                        "the shim could not save the device state",
                    ));
                }
                Some(State::Stopped) | None => {}
            }
            if left.is_zero() {
                return Err(PagerError::gone("the shim did not conduct the pause in time"));
            }
            if self.is_ended() {
                return Err(PagerError::gone("the VMM ended in the pause"));
            }
        }
    }
}
