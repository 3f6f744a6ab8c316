//! The layers and stacks that are held in memory, each once. Unused layers are dropped by a budget, and read from the store again
//! when they are needed; see [`crate::shelf`].

mod held;
mod keeper;

use crate::blobs::Blobs;
use crate::error::{LayerError, LayerErrorKind, Result};
use crate::host_memory;
use crate::layer::Layer;
use crate::merged::Outline;
use crate::signal::{InUse, Signal};
use crate::stack::Stack;
use held::{Found, Held};
pub use held::{HeldLayer, LayerName, MemoryUse};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Instant;

/// A stack of more pieces is merged before it is mapped, however long that takes.
const PIECES_MAX: usize = 8192;
/// Mappings that a process needs beside those of a stack.
const OWN_MAPPINGS: usize = 4096;

/// A stack by its length in bytes and the names of its layers, bottom first.
type StackKey = (u64, Vec<LayerName>);

/// Every layer under its names: `ram:<n>` from [`Layers::add`] on, and `sha256:…` once it is on disk.
#[derive(Debug)]
pub struct Layers {
    held: Mutex<Held>,
    stacks: Mutex<HashMap<StackKey, Weak<Stack>>>,
    /// Held while a layer is read from disk, so that it is read once, however many threads ask for it.
    loading: Mutex<()>,
    /// No plan has more pieces.
    pieces_max: usize,
    /// Wakes the thread in [`Layers::keep`].
    signal: Arc<Signal>,
    log: fn(&str),
}

/// A stack, and what to map of it.
#[derive(Debug)]
pub struct MappedStack {
    pub stack: Arc<Stack>,
    /// The stack to map: the same content in fewer pieces, or `stack` itself.
    pub mapped: Arc<Stack>,
}

impl Layers {
    /// Holds no layer yet. Unused layers may take up to `budget_bytes` of memory. Messages for the operator go to `log`.
    pub fn new(budget_bytes: u64, log: fn(&str)) -> Layers {
        Layers {
            held: Mutex::new(Held::new(budget_bytes)),
            stacks: Mutex::default(),
            loading: Mutex::default(),
            pieces_max: pieces_max(),
            signal: Arc::default(),
            log,
        }
    }

    /// Holds a new layer, and returns its name.
    pub fn add(&self, layer: Arc<Layer>) -> LayerName {
        self.held().add(layer)
    }

    /// Gives a layer that is on disk now its digest as a second name.
    pub fn add_name(&self, digest: &str, layer: &Arc<Layer>) {
        self.held().add_name(digest, layer);
    }

    /// Forgets a layer under all its names, and returns it with its merged views if it was in memory. Processes that map it keep
    /// it.
    pub fn drop_layer(&self, name: &str) -> Vec<Arc<Layer>> {
        self.held().remove(name)
    }

    /// Drops layers as soon as they are unused, whatever the budget. Their names stay valid.
    pub fn let_go(&self, names: &[LayerName]) {
        self.held().set_aside(names);
        self.signal.set();
    }

    /// Sets how much memory unused layers may take, in bytes.
    pub fn limit(&self, budget_bytes: u64) {
        self.held().budget_bytes = budget_bytes;
        self.signal.set();
    }

    /// A guard to hold beside layers that belong to no stack. Drop it after them.
    pub fn in_use(&self) -> InUse {
        InUse::new(&self.signal)
    }

    /// Makes room for `what`, which takes `pages` pages: drops unused layers if the host has too little memory. Fails with
    /// `OutOfMemory` if that is not enough.
    pub fn make_room(&self, pages: u64, what: &str) -> Result<()> {
        if host_memory::require(pages, what).is_ok() {
            return Ok(());
        }
        self.let_go_unused(0);
        host_memory::require(pages, what)
    }

    /// The stack of `length` bytes of the layers `names`, bottom first. Layers that are not in memory are read from the store.
    ///
    /// Fails with `UnknownLayer`, `Damaged` or `OutOfMemory`, and with `Invalid` as [`Stack::new`] does.
    pub fn stack(&self, length: u64, names: &[LayerName], blobs: &Blobs) -> Result<Arc<Stack>> {
        let key = (length, names.to_vec());
        if let Some(stack) = self
            .stacks
            .lock()
            .expect("no panic while held")
            .get(&key)
            .and_then(Weak::upgrade)
        {
            return Ok(stack);
        }
        // Declared before the layers, so that an error drops them first.
        let in_use = self.in_use();
        let layers = names
            .iter()
            .map(|name| self.layer(name, blobs))
            .collect::<Result<Vec<_>>>()?;
        let stack = Arc::new(Stack::new(length, layers)?.with_guard(in_use));
        let mut stacks = self.stacks.lock().expect("no panic while held");
        stacks.retain(|_, stack| stack.strong_count() > 0);
        stacks.insert(key, Arc::downgrade(&stack));
        Ok(stack)
    }

    /// The stack of `names`, as [`Layers::stack`], for a process that is about to map it. A stack of too many pieces is merged
    /// first, and one that is mapped repeatedly is merged in the background.
    pub fn mapped_stack(&self, length: u64, names: &[LayerName], blobs: &Blobs) -> Result<MappedStack> {
        let stack = self.stack(length, names, blobs)?;
        let mut held = self.held();
        // If a layer was dropped a moment ago, the stack is mapped as it is.
        let Some(key) = held.key(length, names) else {
            let mapped = stack.clone();
            return Ok(MappedStack { stack, mapped });
        };
        let view = held.view(&key);
        drop(held);
        let mapped = match view {
            Some((depth, view)) => self.seen_through(&stack, depth, view)?,
            None => stack.clone(),
        };
        if mapped.pieces() > self.pieces_max {
            let mapped = self.merge_now(&stack, &mapped, key)?;
            return Ok(MappedStack { stack, mapped });
        }
        if self.held().views.note_use(&key, &mapped) {
            self.signal.set();
        }
        Ok(MappedStack { stack, mapped })
    }

    /// The stack with `view` in place of the layers from above the base up to `depth`.
    fn seen_through(&self, stack: &Stack, depth: usize, view: Arc<Layer>) -> Result<Arc<Stack>> {
        let in_use = self.in_use();
        let base = stack.layers[0].clone();
        let layers = [base, view].into_iter().chain(stack.layers[depth..].iter().cloned());
        Ok(Arc::new(Stack::new(stack.length, layers.collect())?.with_guard(in_use)))
    }

    fn merge_now(&self, stack: &Stack, mapped: &Stack, key: crate::views::Key) -> Result<Arc<Stack>> {
        let start = Instant::now();
        let outline = Outline::of(mapped, self.pieces_max / 2);
        self.make_room(outline.pages, "a merged view of a stack")?;
        let view = Arc::new(outline.make(mapped)?);
        let took = start.elapsed();
        let (before, after) = (mapped.pieces(), outline.extents() + 1);
        let millis = took.as_millis();
        (self.log)(&format!(
            "a stack in {before} pieces was merged into {after} before it was mapped, in {millis} ms"
        ));
        let mut held = self.held();
        held.add_view(key, view.clone());
        held.counts.merged_on_demand += 1;
        held.counts.merged_on_demand_us += took.as_micros() as u64;
        drop(held);
        self.seen_through(stack, stack.layers.len(), view)
    }

    /// Drops unused layers until they take at most `budget_bytes`.
    fn let_go_unused(&self, budget_bytes: u64) {
        let gone = self.held().let_go(budget_bytes);
        // Dropped without the lock: freeing memory takes time.
        drop(gone);
    }

    fn layer(&self, name: &str, blobs: &Blobs) -> Result<Arc<Layer>> {
        if let Found::InMemory(layer) = self.held().find(name) {
            return Ok(layer);
        }
        let _loading = self.loading.lock().expect("no panic while held");
        // Bound before the match, so that the lock is not held while a layer is read.
        let found = self.held().find(name);
        let digest = match found {
            Found::InMemory(layer) => return Ok(layer),
            Found::OnDisk(digest) => digest,
            Found::Nowhere => {
                return Err(LayerError::new(
                    LayerErrorKind::UnknownLayer,
                    format!("layer {name} is not in memory"),
                ));
            }
        };
        let layer = match blobs.load_layer(&digest) {
            Err(error) if error.kind == LayerErrorKind::OutOfMemory => {
                self.let_go_unused(0);
                blobs.load_layer(&digest)?
            }
            loaded => loaded?,
        };
        let layer = Arc::new(layer);
        self.held().put_back(name, &digest, layer.clone());
        Ok(layer)
    }

    /// All layers under each of their names, sorted by name.
    pub fn inventory(&self) -> Vec<HeldLayer> {
        self.held().inventory()
    }

    /// How much memory the layers take.
    pub fn memory_use(&self) -> MemoryUse {
        self.held().memory_use()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no panic while held")
    }
}

/// The number of pieces that a process can map: each piece over the base can cut a mapping in two, and the kernel limits the number
/// of mappings.
fn pieces_max() -> usize {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    let mappings: usize = text.trim().parse().unwrap_or(65_530);
    (mappings.saturating_sub(OWN_MAPPINGS) / 2).clamp(1, PIECES_MAX)
}

#[cfg(test)]
mod tests;
