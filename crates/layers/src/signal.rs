//! Wakes the keeper.

use std::sync::{Arc, Condvar, Mutex};

/// A flag that one thread waits for and that any thread sets.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    pub fn set(&self) {
        *self.is_set.lock().expect("no panic while held") = true;
        self.changed.notify_one();
    }

    /// Waits until the flag is set, and clears it.
    pub fn wait(&self) {
        let is_set = self.is_set.lock().expect("no panic while held");
        let not_set = |is_set: &mut bool| !*is_set;
        *self.changed.wait_while(is_set, not_set).expect("no panic while held") = false;
    }
}

/// Held beside layers that are in use. Dropping it tells the keeper that they may be unused now, so drop it after them.
#[derive(Debug)]
pub struct InUse {
    signal: Arc<Signal>,
}

impl InUse {
    pub(crate) fn new(signal: &Arc<Signal>) -> InUse {
        InUse { signal: signal.clone() }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.signal.set();
    }
}
