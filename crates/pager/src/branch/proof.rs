//! The proof that the shim of a VM conducts a pause as the monitor does.

use super::audit::PausedMemory;
use super::window::{self, During, Window};
use super::{Context, live, stack_of};
use crate::error::{PagerError, Result};
use crate::idle::IdleVmms;
use forkd_capture::WpBranch;
use forkd_layers::Stack;
use forkd_protocol::{Branch, BranchMode, BranchStats, FaultCode, WindowKind};
use std::sync::Arc;

/// Takes an audited live branch of a running VM, whose pause the shim conducts, and drops it. In the same pause the monitor
/// saves the device state once more: the two must be equal. Afterwards the VM runs.
///
/// With `idle`, that VMM loads the branch and runs it. It must have the memory and the device state of the branch before it runs.
pub fn prove(context: &Context<'_>, idle: Option<(&IdleVmms, &str)>) -> Result<()> {
    let request = Branch {
        sandbox: context.sandbox.name().into(),
        mode: BranchMode::Live,
        resume: false,
        audit: true,
        measure_diff: false,
        disk: None,
    };
    let mut stats = BranchStats::default();
    let mut lent = context.sandbox.exclusive()?;
    let captured = live(context, &request, &mut lent, &mut stats)?;
    let (control, bridge) = lent.split();
    let vmm = context.sandbox.attachment()?.source.pid;
    let by_monitor = Window::prepare(control, bridge, vmm, None)?.pause(false, During::default())?;
    control.go_on()?;
    if stats.window != WindowKind::Inside {
        let message = "the VMM does not export the functions that a pause inside needs";
        return Err(PagerError::new(FaultCode::Unsupported, message));
    }
    let layer = Arc::new(captured.layer);
    let layers = stack_of(context, &layer);
    if let Some(paused_memory) = captured.paused_memory {
        paused_memory.compare(&layers, &layer)?;
    }
    if captured.device_state != by_monitor.device_state {
        return Err(differs(
            "saved inside",
            &captured.device_state,
            &by_monitor.device_state,
        ));
    }
    captured.branch.map(WpBranch::finish).transpose()?;
    let Some((idle, vmm)) = idle else { return Ok(()) };
    let memory = Arc::new(Stack::new(context.sandbox.stack.length, layers.clone())?);
    idle.try_load(vmm, &memory, &captured.device_state, |attachment, monitor| {
        PausedMemory::take(attachment.source.clone())?.compare(&layers, &layer)?;
        let loaded = window::save_stopped(monitor)?;
        if is_loaded(&captured.device_state, &loaded) {
            return Ok(());
        }
        Err(differs("loaded inside", &captured.device_state, &loaded))
    })
}

/// True if `loaded` is the device state of a VM that has loaded `state` and does not run yet. One byte says whether the host has
/// the guest channel open: as long as a VM does not run, QEMU says no.
fn is_loaded(state: &[u8], loaded: &[u8]) -> bool {
    let mut differing = state.iter().zip(loaded).filter(|(before, after)| before != after);
    state.len() == loaded.len() && matches!((differing.next(), differing.next()), (None | Some((1, 0)), None))
}

fn differs(which: &str, state: &[u8], by_monitor: &[u8]) -> PagerError {
    let message = format!(
        "a device state of {} bytes that was {which} differs from the {} bytes that the monitor saved",
        state.len(),
        by_monitor.len()
    );
    PagerError::new(FaultCode::AuditFailed, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loaded_state_may_differ_only_in_the_byte_of_the_channel() {
        let state = [7, 1, 0, 1, 9];
        assert!(is_loaded(&state, &state));
        assert!(is_loaded(&state, &[7, 0, 0, 1, 9]));
        for other in [
            &[7, 0, 0, 0, 9][..],
            &[6, 1, 0, 1, 9],
            &[7, 1, 1, 1, 9],
            &[7, 1, 0, 1],
            &[],
        ] {
            assert!(!is_loaded(&state, other), "{other:?}");
        }
    }
}
