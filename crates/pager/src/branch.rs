//! A branch: turns a running VM into a layer and a device state of one instant.

mod audit;
mod disk;
mod proof;
mod sink;
mod window;

use crate::error::Result;
use crate::sandbox::{Exclusive, Sandbox};
use crate::wire;
use audit::PausedMemory;
use disk::{DiskAuditor, DiskEpoch};
use forkd_capture::{CaptureError, CaptureSet, Source, Statistics, WpBranch, copy_still};
use forkd_layers::{Blob, Blobs, Durability, Layer, Layers, Stack};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::uffd::Range;
use forkd_protocol::{Answer, Branch, BranchDone, BranchEvent, BranchMode, BranchStats, LayerRef};
pub use proof::prove;
use sink::LayerSink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use window::{Action, During, Paused, Window};

/// The inputs of a branch.
pub struct Context<'a> {
    pub sandbox: &'a Sandbox,
    pub layers: &'a Layers,
    pub blobs: &'a Blobs,
    pub cancelled: &'a AtomicBool,
    pub event: &'a dyn Fn(BranchEvent),
}

impl Context<'_> {
    /// True if the caller has cancelled the branch, or the sandbox has been released.
    fn is_given_up(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || self.sandbox.is_released()
    }
}

/// A captured image.
struct Captured {
    layer: Layer,
    /// Finished only after the snapshot is ready: lifting the rest of the protection is not urgent.
    branch: Option<WpBranch>,
    device_state: Vec<u8>,
    paused_memory: Option<PausedMemory>,
}

/// Takes a branch through all its stages. If a stage fails, the source keeps running, unprotected.
pub fn run(context: &Context<'_>, request: &Branch) -> Result<BranchDone> {
    let start = Instant::now();
    // Drop this after the layers, which may be unused then.
    let _in_use = context.layers.in_use();
    let mut stats = BranchStats::default();
    let mut lent = context.sandbox.exclusive()?;
    let captured = match request.mode {
        BranchMode::Live => live(context, request, &mut lent, &mut stats)?,
        BranchMode::Diff | BranchMode::Full => inside(context, request, &mut lent, &mut stats)?,
    };
    let device_state = context.blobs.put_bytes(&captured.device_state)?;
    let layer = Arc::new(captured.layer);
    stats.captured_pages = layer.pages();
    stats.captured_bytes = layer.pages() * PAGE_SIZE as u64;
    let stack = stack_of(context, &layer);
    // Audit before the layer has a name, so that no VM starts from a wrong image.
    let audit = captured
        .paused_memory
        .map(|paused_memory| paused_memory.compare(&stack, &layer))
        .transpose()?;
    let names = names_of(context, &layer);
    stats.ready_us = micros(start.elapsed());
    (context.event)(BranchEvent::Ready {
        stack: names,
        device_state: wire::blob(device_state.clone()),
        stats: stats.clone(),
        audit,
    });
    // The layer is complete, so the branch succeeds even if the source has ended since.
    if let Some(Ok((_, statistics))) = captured.branch.map(WpBranch::finish) {
        note_capture(&mut stats, &statistics);
    }
    // Return the connections only now: lifting the protection would also lift that of the next branch.
    drop(lent);
    let stack = make_durable(context, &stack, &layer, &device_state)?;
    stats.durable_us = micros(start.elapsed());
    Ok(BranchDone {
        stack: wire::blobs(stack),
        device_state: wire::blob(device_state),
        stats,
        audit,
    })
}

/// Measures the shortest possible pause: stop, save the device state, run.
pub fn floor(sandbox: &Sandbox) -> Result<Answer> {
    let mut lent = sandbox.exclusive()?;
    let (control, bridge) = lent.split();
    let vmm = sandbox.attached(control)?.source.pid;
    let window = Window::prepare(control, bridge, vmm, None)?;
    let paused = window.pause(true, During::default())?;
    Ok(Answer::Floor {
        pause_us: micros(paused.pause),
        device_state_us: micros(paused.device_state_time),
    })
}

/// Protects the private pages inside the pause, and copies them after it.
fn live(
    context: &Context<'_>,
    request: &Branch,
    lent: &mut Exclusive<'_>,
    stats: &mut BranchStats,
) -> Result<Captured> {
    let (control, bridge) = lent.split();
    let target = context.sandbox.target(control)?;
    let source = target.source.clone();
    let auditor = request.audit.then(|| Auditor::prepare(request, &source)).transpose()?;
    let disk = epoch_of(request)?;
    let sink = Arc::new(LayerSink::new(context.sandbox.stack.clone())?);
    let mut branch = WpBranch::arm(target, sink.clone())?;
    let inside = context
        .sandbox
        .attachment()
        .ok()
        .and_then(|attachment| attachment.window);
    let window = Window::prepare(control, bridge, source.pid, inside.as_deref())?;
    // The VMM may have been slow to answer.
    if context.is_given_up() {
        return Err(CaptureError::Cancelled.into());
    }
    // The guest has touched more pages since the protection was armed.
    branch.settle()?;
    let mut paused_memory = None;
    let during = During {
        disk: disk.as_ref(),
        while_saving: Some(Box::new(|| Ok(branch.take()?))),
        after_saving: auditor.map(|auditor| -> Action<'_> {
            Box::new(|| {
                paused_memory = Some(auditor.take(context)?);
                Ok(())
            })
        }),
    };
    let paused = window.pause(request.resume, during)?;
    note_pause(stats, &paused);
    stats.private_pages = branch.set().len();
    note_capture(stats, &branch.statistics());
    context.layers.make_room(branch.set().len(), "the branch")?;
    (context.event)(resumed(stats, &paused));
    let start = Instant::now();
    branch.copy(|| context.is_given_up())?;
    stats.capture_us = micros(start.elapsed());
    note_capture(stats, &branch.statistics());
    Ok(Captured {
        layer: sink.seal(branch.set())?,
        branch: Some(branch),
        device_state: paused.device_state,
        paused_memory,
    })
}

/// Copies pages inside the pause: the private pages (`diff`), or all pages (`full`).
fn inside(
    context: &Context<'_>,
    request: &Branch,
    lent: &mut Exclusive<'_>,
    stats: &mut BranchStats,
) -> Result<Captured> {
    let (control, bridge) = lent.split();
    let source = context.sandbox.attached(control)?.source;
    let auditor = request.audit.then(|| Auditor::prepare(request, &source)).transpose()?;
    let disk = epoch_of(request)?;
    let full = request.mode == BranchMode::Full;
    let below = if full {
        Arc::new(Stack::new(context.sandbox.stack.length, Vec::new())?)
    } else {
        context.sandbox.stack.clone()
    };
    let sink = LayerSink::new(below)?;
    let (mut scan, mut copied) = (Duration::ZERO, None);
    let mut measured = None;
    let copy = || {
        if full && request.measure_diff {
            measured = Some(measure_diff(context, &source)?);
        }
        let start = Instant::now();
        let ranges = if full {
            vec![Range {
                start: 0,
                end: source.bytes(),
            }]
        } else {
            source.own_pages()?
        };
        scan = start.elapsed();
        let set = CaptureSet::new(&ranges);
        context.layers.make_room(set.len(), "the branch")?;
        copy_still(&source, &set, &sink, || context.is_given_up())?;
        let took = start.elapsed();
        let paused_memory = auditor.map(|auditor| auditor.take(context)).transpose()?;
        copied = Some((set, took, paused_memory));
        Ok(())
    };
    let during = During {
        disk: disk.as_ref(),
        while_saving: None,
        after_saving: Some(Box::new(copy)),
    };
    let paused = Window::prepare(control, bridge, source.pid, None)?.pause(request.resume, during)?;
    note_pause(stats, &paused);
    stats.scan_us = micros(scan);
    let (set, took, paused_memory) = copied.expect("the pause has copied, or failed");
    stats.private_pages = set.len();
    (context.event)(resumed(stats, &paused));
    let layer = sink.seal(&set)?;
    let diff = if full { measured } else { Some((took, layer.pages())) };
    if let Some((took, pages)) = diff {
        stats.diff_us = micros(took);
        stats.diff_pages = pages;
    }
    Ok(Captured {
        layer,
        branch: None,
        device_state: paused.device_state,
        paused_memory,
    })
}

/// The part of an audited branch inside the pause.
struct Auditor {
    source: Source,
    disk: Option<DiskAuditor>,
}

impl Auditor {
    /// Does everything that can fail before the pause.
    fn prepare(request: &Branch, source: &Source) -> Result<Auditor> {
        PausedMemory::check_room(source)?;
        Ok(Auditor {
            source: source.clone(),
            disk: request.disk.as_ref().map(DiskAuditor::connect).transpose()?,
        })
    }

    /// Copies the memory, and has the server of the disk note its blocks.
    fn take(self, context: &Context<'_>) -> Result<PausedMemory> {
        let paused_memory = PausedMemory::take(self.source)?;
        self.disk.map_or(Ok(()), |disk| disk.note(|| context.is_given_up()))?;
        Ok(paused_memory)
    }
}

fn epoch_of(request: &Branch) -> Result<Option<DiskEpoch>> {
    let path = request.disk.as_ref().map(|disk| disk.epoch_path.as_str());
    path.map(DiskEpoch::open).transpose()
}

/// Copies the private pages as a `diff` would, and drops the copy. Returns the time and the number of pages that it held.
fn measure_diff(context: &Context<'_>, source: &Source) -> Result<(Duration, u64)> {
    let start = Instant::now();
    let set = CaptureSet::new(&source.own_pages()?);
    context.layers.make_room(set.len(), "the measurement of a diff")?;
    let sink = LayerSink::new(context.sandbox.stack.clone())?;
    copy_still(source, &set, &sink, || context.is_given_up())?;
    let took = start.elapsed();
    Ok((took, sink.seal(&set)?.pages()))
}

/// The stack of the new snapshot. A layer without a page is left out.
fn stack_of(context: &Context<'_>, layer: &Arc<Layer>) -> Vec<Arc<Layer>> {
    let mut layers = Vec::new();
    if !layer.is_base {
        layers.clone_from(&context.sandbox.stack.layers);
    }
    if layer.is_base || layer.pages() > 0 {
        layers.push(layer.clone());
    }
    layers
}

/// The names of the layers of the new stack. The new layer gets its name here.
fn names_of(context: &Context<'_>, layer: &Arc<Layer>) -> Vec<LayerRef> {
    let mut names = Vec::new();
    if !layer.is_base {
        names.clone_from(&context.sandbox.announced.stack);
    }
    if layer.is_base || layer.pages() > 0 {
        names.push(context.layers.add(layer.clone()));
    }
    names
}

/// Waits until everything is on disk: the new layer, the device state, and layers below that are still being written.
fn make_durable(
    context: &Context<'_>,
    stack: &[Arc<Layer>],
    layer: &Arc<Layer>,
    device_state: &Blob,
) -> Result<Vec<Blob>> {
    let written = context.blobs.put_layer(layer, || context.is_given_up());
    match &written {
        Ok(blob) => {
            layer.set_durability(Durability::Durable(blob.clone()));
            context.layers.add_name(&blob.digest, layer);
        }
        Err(error) => layer.set_durability(Durability::Failed(error.clone())),
    }
    written?;
    context.blobs.sync(device_state)?;
    Ok(stack
        .iter()
        .map(|layer| layer.wait_durable())
        .collect::<forkd_layers::Result<_>>()?)
}

fn resumed(stats: &BranchStats, paused: &Paused) -> BranchEvent {
    BranchEvent::Resumed {
        stats: stats.clone(),
        disk_epoch: paused.disk_epoch,
    }
}

fn note_pause(stats: &mut BranchStats, paused: &Paused) {
    stats.window = paused.window;
    stats.pause_us = micros(paused.pause);
    stats.device_state_us = micros(paused.device_state_time);
}

fn note_capture(stats: &mut BranchStats, statistics: &Statistics) {
    stats.arm_us = micros(statistics.arm);
    stats.scan_us = micros(statistics.scan);
    stats.settle_us = micros(statistics.settle);
    stats.settle_rounds = statistics.rounds.into();
    stats.touched_pages = statistics.touched_pages;
    stats.pages_by_copy = statistics.pages_by_copy;
    stats.pages_by_fault = statistics.pages_by_fault;
    stats.faults = statistics.waits.count;
    stats.fault_wait_ns_p50 = statistics.waits.p50.as_nanos() as u64;
    stats.fault_wait_ns_p99 = statistics.waits.p99.as_nanos() as u64;
    stats.fault_wait_ns_max = statistics.waits.max.as_nanos() as u64;
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
