//! A branch: from a running VM to a layer and a device state of one instant.

mod audit;
mod sink;
mod window;

use crate::blobs::Blobs;
use crate::error::Result;
use crate::layer::{Durability, Layer};
use crate::layers::Layers;
use crate::room;
use crate::sandbox::{Exclusive, Sandbox};
use crate::stack::Stack;
use audit::Truth;
use forkd_capture::{CaptureSet, Statistics, WpBranch, copy_still};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::uffd::Range;
use forkd_protocol::{Answer, Blob, Branch, BranchDone, BranchEvent, BranchMode, BranchStats, LayerRef};
pub use sink::LayerSink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use window::{During, Paused, Window};

/// What a branch works with.
pub struct Context<'a> {
    pub sandbox: &'a Sandbox,
    pub layers: &'a Layers,
    pub blobs: &'a Blobs,
    pub cancelled: &'a AtomicBool,
    pub event: &'a dyn Fn(BranchEvent),
}

/// A captured image.
struct Captured {
    layer: Layer,
    /// To be finished once the snapshot is ready: what is still protected is in no hurry.
    branch: Option<WpBranch>,
    device_state: Vec<u8>,
    truth: Option<Truth>,
}

/// Takes a branch through all its stages. Whatever fails, the source runs on, unprotected.
pub fn run(context: &Context<'_>, request: &Branch) -> Result<BranchDone> {
    let start = Instant::now();
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
    let (names, stack) = stack_of(context, &layer);
    let audit = captured.truth.map(|truth| truth.compare(&stack, &layer)).transpose()?;
    stats.ready_us = micros(start.elapsed());
    (context.event)(BranchEvent::Ready {
        stack: names,
        device_state: device_state.clone(),
        stats: stats.clone(),
    });
    // The layer is complete: that the source may have ended since is no failure of the branch.
    if let Some(Ok((_, statistics))) = captured.branch.map(WpBranch::finish) {
        note_capture(&mut stats, &statistics);
    }
    // Only now: to lift the protection would lift the next branch's too.
    drop(lent);
    let stack = make_durable(context, &stack, &layer, &device_state)?;
    stats.durable_us = micros(start.elapsed());
    Ok(BranchDone {
        stack,
        device_state,
        stats,
        audit,
    })
}

/// Stop, save the device state, run: what no branch can be quicker than.
pub fn floor(sandbox: &Sandbox) -> Result<Answer> {
    let mut lent = sandbox.exclusive()?;
    let (control, bridge) = lent.split();
    let vmm = sandbox.attached(control)?.source.pid;
    let window = Window::prepare(control, bridge, vmm)?;
    let paused = window.pause(true, During::after_saving(|| Ok(())))?;
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
    let sink = Arc::new(LayerSink::new(context.sandbox.stack.clone())?);
    let mut branch = WpBranch::arm(target, sink.clone())?;
    let window = Window::prepare(control, bridge, source.pid)?;
    // The guest has run on since it was armed.
    branch.settle()?;
    let during = || {
        branch.take()?;
        request.audit.then(|| Truth::take(source.clone())).transpose()
    };
    let paused = window.pause(request.resume, During::while_saving(during))?;
    note_pause(stats, &paused);
    stats.private_pages = branch.set().len();
    note_capture(stats, &branch.statistics());
    room::check(branch.set().len(), "the branch")?;
    (context.event)(BranchEvent::Resumed { stats: stats.clone() });
    let start = Instant::now();
    branch.copy(|| context.cancelled.load(Ordering::Relaxed))?;
    stats.capture_us = micros(start.elapsed());
    note_capture(stats, &branch.statistics());
    Ok(Captured {
        layer: sink.seal(branch.set())?,
        branch: Some(branch),
        device_state: paused.device_state,
        truth: paused.value,
    })
}

/// Copies inside the pause: the private pages (`diff`), or everything (`full`).
fn inside(
    context: &Context<'_>,
    request: &Branch,
    lent: &mut Exclusive<'_>,
    stats: &mut BranchStats,
) -> Result<Captured> {
    let (control, bridge) = lent.split();
    let source = context.sandbox.attached(control)?.source;
    let full = request.mode == BranchMode::Full;
    let below = if full {
        Arc::new(Stack::new(context.sandbox.stack.mem_bytes, Vec::new())?)
    } else {
        context.sandbox.stack.clone()
    };
    let sink = LayerSink::new(below)?;
    let mut scan = Duration::ZERO;
    let during = || {
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
        room::check(set.len(), "the branch")?;
        copy_still(&source, &set, &sink)?;
        let truth = request.audit.then(|| Truth::take(source.clone())).transpose()?;
        Ok((set, truth))
    };
    let paused = Window::prepare(control, bridge, source.pid)?.pause(request.resume, During::after_saving(during))?;
    note_pause(stats, &paused);
    stats.scan_us = micros(scan);
    let (set, truth) = paused.value;
    stats.private_pages = set.len();
    (context.event)(BranchEvent::Resumed { stats: stats.clone() });
    Ok(Captured {
        layer: sink.seal(&set)?,
        branch: None,
        device_state: paused.device_state,
        truth,
    })
}

/// The new snapshot's stack: the layers, and their names. A layer without a page is left out.
fn stack_of(context: &Context<'_>, layer: &Arc<Layer>) -> (Vec<LayerRef>, Vec<Arc<Layer>>) {
    let mut names = Vec::new();
    let mut layers = Vec::new();
    if !layer.is_base {
        names.clone_from(&context.sandbox.announced.stack);
        layers.clone_from(&context.sandbox.stack.layers);
    }
    if layer.is_base || layer.pages() > 0 {
        names.push(context.layers.add(layer.clone()));
        layers.push(layer.clone());
    }
    (names, layers)
}

/// Brings everything to disk: the new layer, those below that are still on their way, the device state.
fn make_durable(
    context: &Context<'_>,
    stack: &[Arc<Layer>],
    layer: &Arc<Layer>,
    device_state: &Blob,
) -> Result<Vec<Blob>> {
    let written = context
        .blobs
        .put_layer(layer, || context.cancelled.load(Ordering::Relaxed));
    match &written {
        Ok(blob) => {
            layer.set_durability(Durability::Durable(blob.clone()));
            context.layers.add_name(&blob.digest, layer.clone());
        }
        Err(error) => layer.set_durability(Durability::Failed(error.clone())),
    }
    written?;
    context.blobs.sync(device_state)?;
    stack.iter().map(|layer| layer.wait_durable()).collect()
}

fn note_pause<T>(stats: &mut BranchStats, paused: &Paused<T>) {
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
