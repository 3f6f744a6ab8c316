//! The page through which the pager orders a shim to conduct the pause window inside QEMU.
//!
//! The pager writes the order, and the shim the state and the times. To begin, the pager sets the order to
//! [`Order::Pause`] and sends the shim one byte on its socket, with the file for the device state. The shim stops the VM,
//! sets [`State::Stopped`], saves the device state, and does what the next order says.
//!
//! Order and state carry the serial number of their pause, so nothing that belongs to an earlier pause is taken for an answer.

use std::time::Duration;

/// Words of the page, of 32 bits each.
pub const ORDER_WORD: usize = 0;
/// The state has a cache line of its own.
pub const STATE_WORD: usize = 16;
/// Time from before the VM was stopped until it ran again, or until it was saved if it stays stopped, in nanoseconds.
pub const PAUSE_NS_WORD: usize = 17;
/// Time to save the device state, in nanoseconds.
pub const SAVE_NS_WORD: usize = 18;

/// The longest time that a shim keeps the VM stopped while it waits for an order. The pager gives up no later.
pub const ORDER_WAIT_MAX: Duration = Duration::from_secs(2);

/// An order of the pager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Order {
    /// Stop the VM and save its device state.
    Pause = 1,
    /// Run the VM.
    Run,
    /// Leave the VM stopped.
    Stay,
}

/// The progress of a shim in a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// The VM is stopped. Its device state is being saved.
    Stopped = 1,
    /// The device state is in the file, and the order has been carried out.
    Done,
    /// The VM did not run. Nothing was done.
    WasStopped,
    /// The device state could not be saved, or no order came. The VM runs.
    Failed,
}

/// A word with the serial number of a pause.
pub fn word(serial: u32, code: u32) -> u32 {
    serial << 4 | code
}

impl Order {
    pub fn word(self, serial: u32) -> u32 {
        word(serial, self as u32)
    }
}

impl State {
    pub fn word(self, serial: u32) -> u32 {
        word(serial, self as u32)
    }

    /// The state of the pause `serial`. `None`: there is none yet.
    pub fn of(value: u32, serial: u32) -> Option<State> {
        let states = [State::Stopped, State::Done, State::WasStopped, State::Failed];
        states.into_iter().find(|state| state.word(serial) == value)
    }
}
