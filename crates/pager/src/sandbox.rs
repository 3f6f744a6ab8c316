//! The pager's view of a VM.

use crate::attachment::Attachment;
use crate::bridge::Bridge;
use crate::connections::Connections;
use crate::control::{Control, PATIENCE};
use crate::error::{PagerError, Result};
use crate::firecracker::Api;
use forkd_capture::Target;
use forkd_layers::Stack;
use forkd_protocol::{Announce, Caller, FaultCode, MemoryUse, VmmKind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// A VM.
#[derive(Debug)]
pub struct Sandbox {
    pub announced: Announce,
    pub stack: Arc<Stack>,
    /// The layers that the VMM maps: the same content, perhaps in fewer pieces.
    pub mapped: Arc<Stack>,
    /// The identity of the VMM: its process, once that is known.
    caller: Mutex<Caller>,
    attached: Mutex<Attached>,
    /// Notified when `attached` changes.
    attaching: Condvar,
    connections: Mutex<LentConnections>,
    /// Notified when the connections are returned.
    returning: Condvar,
    /// True once the sandbox has been released. Operations under way are aborted.
    released: AtomicBool,
}

/// State of the handover of the VMM's memory.
#[derive(Debug)]
enum Attached {
    /// The VMM has not called yet. After a restart of the pager it looks for the new pager several times a second.
    NotYet,
    Yes(Attachment),
    /// The VMM has ended.
    NoMore,
}

/// The connections of a sandbox, lent to one operation at a time. The lock is free meanwhile: a VMM may be slow to answer.
#[derive(Debug, Default)]
struct LentConnections {
    is_lent: bool,
    connections: Option<Connections>,
}

/// Longest wait for a VMM that has not called this pager yet.
const ATTACH_PATIENCE: Duration = Duration::from_secs(3);
/// Longest wait for connections that are lent: an aborted operation has ended by then.
const RETURN_PATIENCE: Duration = Duration::from_secs(12);

impl Sandbox {
    pub fn new(announced: Announce, stack: Arc<Stack>, mapped: Arc<Stack>) -> Sandbox {
        Sandbox {
            caller: Mutex::new(announced.caller.clone()),
            announced,
            stack,
            mapped,
            attached: Mutex::new(Attached::NotYet),
            attaching: Condvar::new(),
            connections: Mutex::default(),
            returning: Condvar::new(),
            released: AtomicBool::new(false),
        }
    }

    pub fn attachment(&self) -> Result<Attachment> {
        match &*self.lock_attached() {
            Attached::Yes(attachment) => Ok(attachment.clone()),
            Attached::NotYet | Attached::NoMore => Err(self.not_attached()),
        }
    }

    /// Waits up to [`ATTACH_PATIENCE`] for a VMM that is about to hand over its memory.
    fn attachment_soon(&self) -> Result<Attachment> {
        let waits = |attached: &mut Attached| matches!(attached, Attached::NotYet) && !self.is_released();
        let waited = self
            .attaching
            .wait_timeout_while(self.lock_attached(), ATTACH_PATIENCE, waits);
        drop(waited.expect("no panic while held"));
        self.attachment()
    }

    fn not_attached(&self) -> PagerError {
        PagerError::new(FaultCode::VmGone, format!("the VMM of {} is not attached", self.name()))
    }

    fn lock_attached(&self) -> MutexGuard<'_, Attached> {
        self.attached.lock().expect("no panic while held")
    }

    fn set_attached(&self, attached: Attached) {
        *self.lock_attached() = attached;
        self.attaching.notify_all();
    }

    pub fn is_released(&self) -> bool {
        self.released.load(Ordering::Relaxed)
    }

    pub fn release(&self) {
        self.released.store(true, Ordering::Relaxed);
        // Notify under the lock, so that no thread begins to wait in between.
        let _attached = self.lock_attached();
        self.attaching.notify_all();
    }

    /// True while an operation has the connections.
    pub fn is_busy(&self) -> bool {
        self.lock_connections().is_lent
    }

    pub fn name(&self) -> &str {
        &self.announced.sandbox
    }

    /// Refuses any process but the VMM's own. The first process that shows the key is the VMM's.
    pub fn admit(&self, pid: i32, key: &str) -> Result<()> {
        let mut caller = self.caller.lock().expect("no panic while held");
        let known = match &*caller {
            Caller::Pid(own) => *own == pid,
            Caller::Key(own) => own == key,
        };
        if !known {
            let message = format!("process {pid} is not the VMM of {}", self.name());
            return Err(PagerError::new(FaultCode::BadRequest, message));
        }
        *caller = Caller::Pid(pid);
        Ok(())
    }

    /// Stores the memory that the VMM has handed over. The caller has admitted the process.
    pub fn attach(&self, attachment: Attachment) -> Result<()> {
        let (bytes, wanted) = (attachment.source.bytes(), self.announced.mem_bytes);
        if bytes != wanted {
            let message = format!(
                "the VMM of {} has {bytes} bytes of memory instead of {wanted}",
                self.name()
            );
            return Err(PagerError::new(FaultCode::BadRequest, message));
        }
        self.set_attached(Attached::Yes(attachment));
        Ok(())
    }

    pub fn detach(&self) {
        self.set_attached(Attached::NoMore);
    }

    /// Connects to the VM. The VM is then stopped if `paused` is true, else it runs. Fails with `Busy` if an operation
    /// keeps the connections.
    pub fn open(&self, paused: bool) -> Result<()> {
        let waited = self
            .returning
            .wait_timeout_while(self.lock_connections(), RETURN_PATIENCE, |lent| lent.is_lent);
        let (mut held, _) = waited.expect("no panic while held");
        let mut lent = self.lend(&mut held)?;
        drop(held);
        // An earlier bridge removes its listening socket when it ends. That must happen before the next bridge creates its own.
        lent.connections = None;
        lent.connections = Some(Connections::open(&self.announced, paused)?);
        Ok(())
    }

    /// Takes over connections that were made before the VMM had a VM.
    pub fn connect(&self, connections: Connections) {
        self.lock_connections().connections = Some(connections);
    }

    /// Lends the connections to one operation. Fails with `Busy` while another operation has them.
    pub fn exclusive(&self) -> Result<Exclusive<'_>> {
        let mut held = self.lock_connections();
        let mut lent = self.lend(&mut held)?;
        // Returning the connections takes the lock again.
        drop(held);
        let Some(connections) = &mut lent.connections else {
            return Err(PagerError::new(
                FaultCode::VmGone,
                format!("{} has not been opened", self.name()),
            ));
        };
        connections.control.allow(PATIENCE);
        Ok(lent)
    }

    fn lend(&self, held: &mut LentConnections) -> Result<Exclusive<'_>> {
        if held.is_lent {
            return Err(PagerError::new(
                FaultCode::Busy,
                format!("a branch of {} is under way", self.name()),
            ));
        }
        held.is_lent = true;
        Ok(Exclusive {
            sandbox: self,
            connections: held.connections.take(),
        })
    }

    fn lock_connections(&self) -> MutexGuard<'_, LentConnections> {
        self.connections.lock().expect("no panic while held")
    }

    pub fn memory(&self) -> Result<MemoryUse> {
        let usage = self.attachment_soon()?.source.usage()?;
        Ok(MemoryUse {
            private_bytes: usage.private_bytes,
            shared_bytes: usage.file_bytes,
        })
    }

    /// The memory of the VMM. Asks the VMM for it, unless the VMM calls by itself.
    pub fn attached(&self, control: &mut dyn Control) -> Result<Attachment> {
        if let Ok(attachment) = self.attachment() {
            return Ok(attachment);
        }
        let Some(attachment) = control.ask_for_memory(&self.announced, &self.stack)? else {
            return self.attachment_soon();
        };
        self.admit(attachment.source.pid, "")?;
        // Do not keep a userfaultfd that reports changes: between branches no thread reads it, and the VMM would block on that.
        if !attachment
            .uffd
            .as_ref()
            .is_some_and(|uffd| uffd.reports_changes().unwrap_or(true))
        {
            self.attach(attachment.clone())?;
        }
        Ok(attachment)
    }

    /// Asks a VMM that has loaded its VM, and has not been opened yet, for the VM's memory. Returns true if the memory
    /// is kept for later branches.
    pub fn take_memory(&self) -> Result<bool> {
        if self.announced.vmm != VmmKind::Firecracker {
            let message = format!("the VMM of {} hands over memory by itself", self.name());
            return Err(PagerError::new(FaultCode::BadRequest, message));
        }
        self.attached(&mut Api::connect(&self.announced.monitor_socket, PATIENCE)?)?;
        Ok(self.attachment().is_ok())
    }

    pub fn target(&self, control: &mut dyn Control) -> Result<Target> {
        let Attachment { source, uffd, .. } = self.attached(control)?;
        let uffd = uffd.ok_or_else(|| {
            let why = forkd_linux_sys::uffd::probe()
                .err()
                .map_or("the VMM could not create one".into(), |e| e.to_string());
            PagerError::new(
                FaultCode::Unsupported,
                format!("{} cannot be branched live: no userfaultfd ({why})", self.name()),
            )
        })?;
        Ok(Target { source, uffd })
    }
}

/// A sandbox's connections, lent to one operation. Dropping this returns them.
pub struct Exclusive<'a> {
    sandbox: &'a Sandbox,
    connections: Option<Connections>,
}

impl Exclusive<'_> {
    pub fn control(&mut self) -> &mut dyn Control {
        self.split().0
    }

    pub fn split(&mut self) -> (&mut dyn Control, &Bridge) {
        let connections = self.connections.as_mut().expect("checked when it was lent");
        (&mut *connections.control, &connections.bridge)
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        // A panic may have left a half-sent command. Drop such connections. Fresh ones replace them.
        let connections = self.connections.take().filter(|_| !std::thread::panicking());
        let mut held = self.sandbox.lock_connections();
        (held.is_lent, held.connections) = (false, connections);
        self.sandbox.returning.notify_all();
    }
}
