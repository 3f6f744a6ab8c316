//! The VMs that the pager knows.

use crate::attachment::Attachment;
use crate::error::{PagerError, Result};
use crate::sandbox::Sandbox;
use forkd_layers::{Blobs, Layers, MappedStack};
use forkd_protocol::{Announce, Caller, FaultCode, HeldSandbox, Refresh, VmmKind, refresh};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The memory that an announced VM starts from. Only a QEMU that is about to start maps a plan of it: a running QEMU
/// has mapped the plan of an earlier pager, and other VMMs map none.
fn memory_of(announced: &Announce, layers: &Layers, blobs: &Blobs) -> Result<MappedStack> {
    let Announce { mem_bytes, stack, .. } = announced;
    if announced.vmm == VmmKind::Qemu && matches!(announced.caller, Caller::Key(_)) {
        return Ok(layers.mapped_stack(*mem_bytes, stack, blobs)?);
    }
    let stack = layers.stack(*mem_bytes, stack, blobs)?;
    let mapped = stack.clone();
    Ok(MappedStack { stack, mapped })
}

/// Fails if a refresh of the memory of `name` is not possible.
pub fn check_refreshes(name: &str, refreshes: &[Refresh], mem_bytes: u64) -> Result<()> {
    refresh::check_all(refreshes, mem_bytes)
        .map_err(|why| PagerError::new(FaultCode::BadRequest, format!("{name}: {why}")))
}

/// All VMs, by name.
#[derive(Debug, Default)]
pub struct Sandboxes {
    known: Mutex<HashMap<String, Arc<Sandbox>>>,
    /// The memory of VMMs that outlived an earlier pager and called before they were announced, by name and process. The
    /// announcement says which process the name belongs to.
    early: Mutex<HashMap<(String, i32), Attachment>>,
}

impl Sandboxes {
    pub fn announce(&self, announced: Announce, layers: &Layers, blobs: &Blobs) -> Result<()> {
        check_refreshes(&announced.sandbox, &announced.refresh, announced.mem_bytes)?;
        let memory = memory_of(&announced, layers, blobs)?;
        self.add(announced, memory).map(drop)
    }

    /// Adds a VM that starts from this memory.
    pub fn add(&self, announced: Announce, memory: MappedStack) -> Result<Arc<Sandbox>> {
        check_refreshes(&announced.sandbox, &announced.refresh, announced.mem_bytes)?;
        let MappedStack { stack, mapped } = memory;
        let name = announced.sandbox.clone();
        let caller = announced.caller.clone();
        let sandbox = Arc::new(Sandbox::new(announced, stack, mapped));
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
        known.insert(name, sandbox.clone());
        Ok(sandbox)
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

    /// Keeps the memory of a VMM that calls again, even if this pager has no announcement of it yet.
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

    /// Records that the VMM `pid` of the VM `name` has ended.
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

    /// Releases a VM, unless another has taken its name since.
    pub fn release_own(&self, sandbox: &Arc<Sandbox>) {
        let mut known = self.known.lock().expect("no panic while held");
        if known
            .get(sandbox.name())
            .is_some_and(|other| Arc::ptr_eq(other, sandbox))
        {
            known.remove(sandbox.name());
        }
        drop(known);
        sandbox.release();
    }

    pub fn release(&self, name: &str) {
        let removed = self.known.lock().expect("no panic while held").remove(name);
        let mut early = self.early.lock().expect("no panic while held");
        early.retain(|(claimed, _), _| claimed != name);
        drop(early);
        if let Some(sandbox) = &removed {
            sandbox.release();
        }
        // Drop without the lock: closing a bridge waits for its thread.
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
                    branching: sandbox.is_busy(),
                }
            })
            .collect();
        held.sort_by(|a, b| a.sandbox.cmp(&b.sandbox));
        held
    }
}
