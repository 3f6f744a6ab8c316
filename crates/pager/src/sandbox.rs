//! A VM as the pager knows it, and all of them.

use crate::blobs::Blobs;
use crate::bridge::Bridge;
use crate::connections::Connections;
use crate::control::Control;
use crate::error::{PagerError, Result};
use crate::layers::Layers;
use crate::stack::Stack;
use forkd_capture::{Source, Target};
use forkd_linux_sys::pagemap::Kind;
use forkd_linux_sys::uffd::{Range, Userfaultfd};
use forkd_protocol::{Announce, Caller, FaultCode, HeldSandbox, MemoryUse};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// What the VMM has handed over.
#[derive(Debug, Clone)]
pub struct Attachment {
    pub source: Source,
    /// Missing where the host gives out none: `live` is refused then.
    pub uffd: Option<Arc<Userfaultfd>>,
}

/// One VM.
#[derive(Debug)]
pub struct Sandbox {
    pub announced: Announce,
    pub stack: Arc<Stack>,
    /// Which process is its VMM, once that is known.
    caller: Mutex<Caller>,
    attachment: Mutex<Option<Attachment>>,
    /// Held for a whole branch: one at a time.
    connections: Mutex<Option<Connections>>,
}

impl Sandbox {
    pub fn attachment(&self) -> Result<Attachment> {
        let attachment = self.attachment.lock().expect("no panic while held").clone();
        attachment
            .ok_or_else(|| PagerError::new(FaultCode::VmGone, format!("the VMM of {} is not attached", self.name())))
    }

    pub fn name(&self) -> &str {
        &self.announced.sandbox
    }

    /// Lets only the VMM's own process through. The first that shows the key is that.
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

    /// Takes note of the memory of the VMM, which has been admitted.
    pub fn attach(&self, attachment: Attachment) -> Result<()> {
        let (bytes, wanted) = (attachment.source.bytes(), self.announced.mem_bytes);
        if bytes != wanted {
            let message = format!(
                "the VMM of {} has {bytes} bytes of memory instead of {wanted}",
                self.name()
            );
            return Err(PagerError::new(FaultCode::BadRequest, message));
        }
        *self.attachment.lock().expect("no panic while held") = Some(attachment);
        Ok(())
    }

    pub fn detach(&self) {
        *self.attachment.lock().expect("no panic while held") = None;
    }

    /// Connects to the VM. It stands still afterwards if it is meant to be `paused`, else it runs.
    pub fn open(&self, paused: bool) -> Result<()> {
        let mut connections = self.connections.lock().expect("no panic while held");
        // The listening socket of an earlier bridge is removed when it ends: that must come before the next one's.
        *connections = None;
        *connections = Some(Connections::open(&self.announced, paused)?);
        Ok(())
    }

    /// The same after whoever had the connections has panicked.
    pub fn reopen(&self) -> Result<()> {
        self.connections.clear_poison();
        self.open(false)
    }

    /// Takes over connections that were made while the VMM had no VM yet.
    pub fn connect(&self, connections: Connections) {
        *self.connections.lock().expect("no panic while held") = Some(connections);
    }

    /// The connections, for one branch alone. `Busy` while another has them.
    pub fn exclusive(&self) -> Result<Exclusive<'_>> {
        let guard = self
            .connections
            .try_lock()
            .map_err(|_| PagerError::new(FaultCode::Busy, format!("a branch of {} is under way", self.name())))?;
        if guard.is_none() {
            return Err(PagerError::new(
                FaultCode::VmGone,
                format!("{} has not been opened", self.name()),
            ));
        }
        Ok(Exclusive { guard })
    }

    pub fn memory(&self) -> Result<MemoryUse> {
        let source = self.attachment()?.source;
        let count = |kind| -> Result<u64> { Ok(source.scan(kind)?.into_iter().map(Range::len).sum()) };
        Ok(MemoryUse {
            private_bytes: count(Kind::PrivatePresent)?,
            shared_bytes: count(Kind::FilePresent)?,
        })
    }

    /// What the VMM has handed over, once it has been asked for it if it does not call by itself.
    pub fn attached(&self, control: &mut dyn Control) -> Result<Attachment> {
        let missing = match self.attachment() {
            Err(missing) => missing,
            attached => return attached,
        };
        let attachment = control.ask_for_memory(self)?.ok_or(missing)?;
        // Between branches nobody would read what it reports, and the VMM would wait for that.
        if !attachment
            .uffd
            .as_ref()
            .is_some_and(|uffd| uffd.reports_changes().unwrap_or(true))
        {
            self.attach(attachment.clone())?;
        }
        Ok(attachment)
    }

    pub fn target(&self, control: &mut dyn Control) -> Result<Target> {
        let Attachment { source, uffd } = self.attached(control)?;
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

/// A sandbox's connections, lent to one branch.
pub struct Exclusive<'a> {
    guard: MutexGuard<'a, Option<Connections>>,
}

impl Exclusive<'_> {
    pub fn control(&mut self) -> &mut dyn Control {
        self.split().0
    }

    pub fn split(&mut self) -> (&mut dyn Control, &Bridge) {
        let connections = self.guard.as_mut().expect("checked when it was lent");
        (&mut *connections.control, &connections.bridge)
    }
}

/// All VMs.
#[derive(Debug, Default)]
pub struct Sandboxes {
    known: Mutex<HashMap<String, Arc<Sandbox>>>,
    /// VMMs that outlived an earlier pager and called before they were announced, by name and process: which of those that
    /// claim a name it belongs to is known when it is announced.
    early: Mutex<HashMap<(String, i32), Attachment>>,
}

impl Sandboxes {
    pub fn announce(&self, announced: Announce, layers: &Layers, blobs: &Blobs) -> Result<()> {
        let stack = layers.stack(announced.mem_bytes, &announced.stack, blobs)?;
        let name = announced.sandbox.clone();
        let caller = announced.caller.clone();
        let sandbox = Arc::new(Sandbox {
            announced,
            stack,
            caller: Mutex::new(caller.clone()),
            attachment: Mutex::new(None),
            connections: Mutex::new(None),
        });
        let mut known = self.known.lock().expect("no panic while held");
        if known.contains_key(&name) {
            return Err(PagerError::new(
                FaultCode::BadRequest,
                format!("{name} has been announced before"),
            ));
        }
        let mut early = self.early.lock().expect("no panic while held");
        if let Caller::Pid(pid) = caller
            && let Some(attachment) = early.remove(&(name.clone(), pid))
        {
            sandbox.attach(attachment)?;
        }
        known.insert(name, sandbox);
        Ok(())
    }

    pub fn find(&self, name: &str) -> Result<Arc<Sandbox>> {
        let found = self.known.lock().expect("no panic while held").get(name).cloned();
        found.ok_or_else(|| {
            PagerError::new(
                FaultCode::UnknownSandbox,
                format!("no sandbox {name} has been announced"),
            )
        })
    }

    /// Takes note of the memory of a VMM that calls again, whether or not it has been announced to this pager.
    pub fn attach_again(&self, name: &str, key: &str, attachment: Attachment) -> Result<()> {
        let known = self.known.lock().expect("no panic while held");
        let pid = attachment.source.pid;
        match known.get(name) {
            Some(sandbox) => {
                sandbox.admit(pid, key)?;
                sandbox.attach(attachment)?;
            }
            None => {
                let mut early = self.early.lock().expect("no panic while held");
                early.insert((name.into(), pid), attachment);
            }
        }
        Ok(())
    }

    /// The VMM has ended.
    pub fn detach(&self, name: &str, pid: i32) {
        let known = self.known.lock().expect("no panic while held");
        if let Some(sandbox) = known
            .get(name)
            .filter(|sandbox| sandbox.attachment().is_ok_and(|a| a.source.pid == pid))
        {
            sandbox.detach();
        }
        self.early
            .lock()
            .expect("no panic while held")
            .remove(&(name.into(), pid));
    }

    pub fn release(&self, name: &str) {
        let removed = self.known.lock().expect("no panic while held").remove(name);
        let mut early = self.early.lock().expect("no panic while held");
        early.retain(|(claimed, _), _| claimed != name);
        drop(early);
        // Dropped here, not under the lock: closing a bridge waits for its thread.
        drop(removed);
    }

    pub fn inventory(&self) -> Vec<HeldSandbox> {
        let known = self.known.lock().expect("no panic while held");
        let mut held: Vec<HeldSandbox> = known
            .iter()
            .map(|(name, sandbox)| {
                let pid = sandbox.attachment().ok().map(|attachment| attachment.source.pid);
                HeldSandbox {
                    sandbox: name.clone(),
                    attached: pid.is_some(),
                    pid,
                    branching: sandbox.connections.try_lock().is_err(),
                }
            })
            .collect();
        held.sort_by(|a, b| a.sandbox.cmp(&b.sandbox));
        held
    }
}
