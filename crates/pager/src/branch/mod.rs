//! A branch: from a running VM to a layer and a device state of one instant.

mod audit;
mod layer;
mod window;

use crate::blobs::Blobs;
use crate::capture::{CaptureSet, Sink, WpBranch};
use crate::error::{Result, Step};
use crate::layer::{Durability, Layer};
use crate::layers::Layers;
use crate::room;
use crate::sandbox::{Exclusive, Sandbox};
use crate::stack::Stack;
use audit::Truth;
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::{self, Mapping};
use forkd_linux_sys::pagemap::Kind;
use forkd_protocol::{Answer, Blob, Branch, BranchDone, BranchEvent, BranchMode, BranchStats, LayerRef};
use layer::Kept;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use window::{Pause, Paused};

/// What a branch works with.
pub struct Context<'a> {
    pub sandbox: &'a Sandbox,
    pub layers: &'a Layers,
    pub blobs: &'a Blobs,
    pub cancelled: &'a AtomicBool,
    pub event: &'a dyn Fn(BranchEvent),
}

/// A captured image: where its pages are, and which of them the new layer keeps.
struct Captured {
    file: File,
    set: Arc<CaptureSet>,
    kept: Kept,
    /// Whether the layer is the bottom of its stack: pages are at their own place in the file.
    below_is_empty: bool,
    device_state: Vec<u8>,
    truth: Option<Truth>,
}

/// Takes a branch through all its stages. Whatever fails, the source runs on, unprotected.
pub fn run(context: &Context<'_>, request: &Branch) -> Result<BranchDone> {
    let start = Instant::now();
    let mut stats = BranchStats::default();
    let mut lent = context.sandbox.exclusive()?;
    let mut captured = match request.mode {
        BranchMode::Live => live(context, request, &mut lent, &mut stats)?,
        BranchMode::Diff | BranchMode::Full => inside(context, request, &mut lent, &mut stats)?,
    };
    // The source has its connections back: only the copy was its own.
    drop(lent);
    let truth = captured.truth.take();
    let device_state = context.blobs.put_bytes(&captured.device_state)?;
    let layer = Arc::new(build(context, captured)?);
    stats.captured_pages = layer.pages();
    stats.captured_bytes = layer.pages() * PAGE_SIZE as u64;
    let (names, stack) = stack_of(context, &layer);
    let audit = truth.map(|truth| truth.compare(&stack, &layer)).transpose()?;
    stats.ready_us = micros(start.elapsed());
    (context.event)(BranchEvent::Ready {
        stack: names,
        device_state: device_state.clone(),
        stats: stats.clone(),
    });
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
    let (monitor, bridge) = lent.split();
    let paused = window::pause(
        monitor,
        bridge,
        Pause {
            resume: true,
            overlap: false,
        },
        || Ok(()),
    )?;
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
    let target = context.sandbox.target()?;
    let below = &context.sandbox.stack;
    let (file, sink) = sink(below)?;
    let mut branch = WpBranch::arm(target.clone(), sink.clone())?;
    let (monitor, bridge) = lent.split();
    let paused = window::pause(
        monitor,
        bridge,
        Pause {
            resume: request.resume,
            overlap: true,
        },
        || {
            branch.take()?;
            request.audit.then(|| Truth::take(target.source)).transpose()
        },
    )?;
    note_pause(stats, &paused);
    let set = branch.set().clone();
    stats.private_pages = set.len();
    room::check(set.len(), "the branch")?;
    (context.event)(BranchEvent::Resumed { stats: stats.clone() });
    let start = Instant::now();
    let mut kept = Kept::new(set.len());
    branch.copy(
        || context.cancelled.load(Ordering::Relaxed),
        |run| kept.compare(run, &sink, below),
    )?;
    let (set, statistics) = branch.finish()?;
    stats.capture_us = micros(start.elapsed());
    // Those that faults have copied have not been looked at yet.
    kept.compare_rest(&set, &sink, below);
    stats.arm_us = micros(statistics.arm);
    stats.scan_us = micros(statistics.scan);
    stats.touched_pages = statistics.touched_pages;
    stats.faults = statistics.faults;
    stats.fault_wait_us_max = micros(statistics.fault_wait_max);
    Ok(Captured {
        file,
        set,
        kept,
        below_is_empty: sink.in_place,
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
    let source = context.sandbox.attachment()?.source;
    let full = request.mode == BranchMode::Full;
    let nothing = Stack::new(context.sandbox.stack.mem_bytes, Vec::new())?;
    let below = if full { &nothing } else { &*context.sandbox.stack };
    let (file, sink) = sink(below)?;
    let (monitor, bridge) = lent.split();
    let mut scan = Duration::ZERO;
    let paused = window::pause(
        monitor,
        bridge,
        Pause {
            resume: request.resume,
            overlap: false,
        },
        || {
            let start = Instant::now();
            let ranges = if full {
                vec![source.range]
            } else {
                source.scan(Kind::Private)?
            };
            scan = start.elapsed();
            let set = CaptureSet::new(source.range.start, &ranges);
            room::check(set.len(), "the branch")?;
            source.copy(&set, &sink)?;
            let truth = request.audit.then(|| Truth::take(source)).transpose()?;
            Ok((set, truth))
        },
    )?;
    stats.scan_us = micros(scan);
    note_pause(stats, &paused);
    let (set, truth) = paused.value;
    stats.private_pages = set.len();
    (context.event)(BranchEvent::Resumed { stats: stats.clone() });
    let mut kept = Kept::new(set.len());
    kept.compare_rest(&set, &sink, below);
    Ok(Captured {
        file,
        set: Arc::new(set),
        kept,
        below_is_empty: sink.in_place,
        device_state: paused.device_state,
        truth,
    })
}

/// A memfd for a new layer over `below`, and where in it pages go. It takes up room only where pages are written.
fn sink(below: &Stack) -> Result<(File, Sink)> {
    let file = memfd::create(c"forkd-layer", below.mem_bytes).step(|| "making room for a layer".into())?;
    let memory = Mapping::read_write(&file, below.mem_bytes as usize).step(|| "mapping a layer".into())?;
    Ok((
        file,
        Sink {
            memory: Arc::new(memory),
            in_place: below.layers.is_empty(),
        },
    ))
}

/// Seals what was captured as a layer that holds only what differs from those below.
fn build(context: &Context<'_>, captured: Captured) -> Result<Layer> {
    let Captured {
        file,
        set,
        kept,
        below_is_empty: in_place,
        ..
    } = captured;
    let extents = kept.extents(&set, in_place, &file)?;
    Layer::seal(
        file,
        context.sandbox.stack.mem_bytes,
        in_place,
        extents,
        Durability::Pending,
    )
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

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
