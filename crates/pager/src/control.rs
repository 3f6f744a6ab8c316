//! The operations of the pager on any VMM.

use crate::attachment::Attachment;
use crate::error::Result;
use forkd_layers::Stack;
use forkd_protocol::Announce;
use std::fmt::Debug;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

/// Time limit of an operation on a VMM, apart from steps with a limit of their own.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The pager's own connection to a VMM.
pub trait Control: Debug + Send {
    /// Sets the time limit of the next commands, all together. A late reply is an error. The next command works all the same.
    fn allow(&mut self, time: Duration);

    /// Stops the vCPUs until [`Control::go_on`].
    fn stop(&mut self) -> Result<()>;

    fn is_stopped(&mut self) -> Result<bool>;

    /// Resumes a stopped VM.
    fn go_on(&mut self) -> Result<()>;

    /// Resumes the VM if it is stopped. Only pagers stop VMs.
    fn run_if_stopped(&mut self) -> Result<()> {
        if self.is_stopped()? {
            self.go_on()?;
        }
        Ok(())
    }

    /// Sets the file for the next device state. The VM runs meanwhile.
    fn save_to(&mut self, file: &File) -> Result<()>;

    /// Stops the VM and tells it to save its device state. `quiet`: no bytes are on their way to or from the guest.
    /// Otherwise the VMM gets the time to move all it can before it saves.
    fn stop_and_save(&mut self, quiet: bool) -> Result<()>;

    /// Waits until the device state has been saved. Call this after each successful [`Control::stop_and_save`].
    fn saved(&mut self) -> Result<()>;

    /// Tells the VMM that the file of [`Control::save_to`] is no longer needed.
    fn forget_file(&mut self) -> Result<()>;

    /// True if saving device state never writes guest memory. If false, capture memory only after the save.
    fn saves_without_writing(&self) -> bool;

    /// Asks the VMM of `announced` to hand over its memory, which began with the content of `stack`. `None` if the VMM
    /// calls by itself. The caller admits the process that owns the memory.
    fn ask_for_memory(&mut self, announced: &Announce, stack: &Arc<Stack>) -> Result<Option<Attachment>>;
}
