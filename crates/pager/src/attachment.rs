//! The memory of a VM, as handed over by its VMM.

use crate::inside::InsideWindow;
use forkd_capture::Source;
use forkd_linux_sys::uffd::Userfaultfd;
use std::sync::Arc;

/// A VMM's memory.
#[derive(Debug, Clone)]
pub struct Attachment {
    pub source: Source,
    /// `None` if the host refuses a userfaultfd. `live` branches are then refused.
    pub uffd: Option<Arc<Userfaultfd>>,
    /// `None` if pauses are conducted over the monitor.
    pub window: Option<Arc<InsideWindow>>,
}
