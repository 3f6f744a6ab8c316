//! The page through which the pager orders a shim to conduct the pause window inside QEMU, and learns how far a VMM is that
//! waited for its VM.
//!
//! The pager writes the order, and the shim the state and the times. To begin, the pager sets the order to
//! [`Order::Pause`] and sends the shim one byte on its socket, with the file for the device state. The shim stops the VM,
//! sets [`State::Stopped`], saves the device state, and does what the next order says.
//!
//! Order and state carry the serial number of their pause, so nothing that belongs to an earlier pause is taken for an answer.

use crate::plan::NAME_BYTES_MAX;
use std::time::Duration;

/// Words of the page, of 32 bits each.
pub const ORDER_WORD: usize = 0;
/// The state has a cache line of its own.
pub const STATE_WORD: usize = 16;
/// Time from before the VM was stopped until it ran again, or until it was saved if it stays stopped, in nanoseconds.
pub const PAUSE_NS_WORD: usize = 17;
/// Time to save the device state, in nanoseconds.
pub const SAVE_NS_WORD: usize = 18;

/// The progress of a VMM that waited for its VM: a [`Progress`], or zero. It has a cache line of its own.
pub const PROGRESS_WORD: usize = 32;

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

/// The progress of a VMM that waited for its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Progress {
    /// The VMM has loaded the VM's memory and device state. The VM does not run yet.
    Loaded = 1,
    /// The VM runs.
    Runs,
}

/// The order to a VMM that has loaded a VM to run it under this name. Fails for a name that is too long.
pub fn run_order(name: &str) -> Result<Vec<u8>, String> {
    let bytes = name.len();
    if bytes == 0 || bytes as u64 > NAME_BYTES_MAX {
        return Err(format!("a name of {bytes} bytes is beyond the limits"));
    }
    let mut order = (bytes as u16).to_le_bytes().to_vec();
    order.extend_from_slice(name.as_bytes());
    Ok(order)
}
