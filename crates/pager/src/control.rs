//! What a pause window asks of a VMM, whichever it is.

use crate::error::Result;
use crate::sandbox::{Attachment, Sandbox};
use std::fmt::Debug;
use std::fs::File;

/// A connection of this process' own to a VMM.
pub trait Control: Debug + Send {
    /// Stops the vCPUs until they are told to go on.
    fn stop(&mut self) -> Result<()>;

    fn is_stopped(&mut self) -> Result<bool>;

    /// Lets a stopped VM go on.
    fn go_on(&mut self) -> Result<()>;

    /// Lets a VM go on that was stopped. Nobody but a pager stops VMs.
    fn run_if_stopped(&mut self) -> Result<()> {
        if self.is_stopped()? {
            self.go_on()?;
        }
        Ok(())
    }

    /// Takes note, the VM running, of where its next device state is to go.
    fn save_to(&mut self, file: &File) -> Result<()>;

    /// Stops the VM and tells it to save its device state. `quiet`: nothing is on its way to the guest or from it. Otherwise
    /// the VMM is given the time to move what it still can, before it saves.
    fn stop_and_save(&mut self, quiet: bool) -> Result<()>;

    /// Waits until the device state has been saved. To be called after each [`Control::stop_and_save`] that did not fail.
    fn saved(&mut self) -> Result<()>;

    /// The file is not needed any more.
    fn forget_file(&mut self) -> Result<()>;

    /// Whether guest memory stays as it is while device state is saved. Otherwise its instant is after that.
    fn saves_without_writing(&self) -> bool;

    /// Has the VMM hand over its memory, where it does so when it is asked. `None` where it calls by itself.
    fn ask_for_memory(&mut self, sandbox: &Sandbox) -> Result<Option<Attachment>>;
}
