//! The proof that the shim of a VM conducts a pause as the monitor does.

use super::window::{During, Window};
use super::{Context, live, stack_of};
use crate::error::{PagerError, Result};
use forkd_capture::WpBranch;
use forkd_protocol::{Branch, BranchMode, BranchStats, FaultCode, WindowKind};
use std::sync::Arc;

/// Takes an audited live branch of a running VM, whose pause the shim conducts, and drops it. In the same pause the monitor
/// saves the device state once more: the two must be equal. Afterwards the VM runs.
pub fn prove(context: &Context<'_>) -> Result<()> {
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
    if let Some(paused_memory) = captured.paused_memory {
        paused_memory.compare(&stack_of(context, &layer), &layer)?;
    }
    if captured.device_state != by_monitor.device_state {
        let message = format!(
            "a device state of {} bytes that was saved inside differs from the {} bytes that the monitor saved",
            captured.device_state.len(),
            by_monitor.device_state.len()
        );
        return Err(PagerError::new(FaultCode::AuditFailed, message));
    }
    captured.branch.map(WpBranch::finish).transpose()?;
    Ok(())
}
