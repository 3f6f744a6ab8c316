//! The layers and stacks that are held in memory, each once.

use crate::blobs::Blobs;
use crate::error::{PagerError, Result};
use crate::layer::Layer;
use crate::stack::Stack;
use forkd_protocol::{FaultCode, HeldLayer, LayerRef};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// The bytes of guest RAM, and the layers, bottom first.
type StackKey = (u64, Vec<LayerRef>);

/// Every layer under its names: `ram:<n>` since it was captured, `sha256:…` since it is on disk.
#[derive(Debug, Default)]
pub struct Layers {
    held: Mutex<HashMap<LayerRef, Arc<Layer>>>,
    stacks: Mutex<HashMap<StackKey, Weak<Stack>>>,
    /// Held while a layer is read from disk, so that it is read once however many ask.
    loading: Mutex<()>,
    serial: AtomicU64,
}

impl Layers {
    /// Holds a layer that was just captured, and returns its name.
    pub fn add(&self, layer: Arc<Layer>) -> LayerRef {
        let name = format!("ram:{}", self.serial.fetch_add(1, Ordering::Relaxed));
        self.held
            .lock()
            .expect("no panic while held")
            .insert(name.clone(), layer);
        name
    }

    /// Gives a layer that has become durable its digest as a second name.
    pub fn add_name(&self, digest: &str, layer: Arc<Layer>) {
        self.held
            .lock()
            .expect("no panic while held")
            .entry(digest.into())
            .or_insert(layer);
    }

    /// Lets go of a layer under all its names. Whoever maps it keeps it.
    pub fn drop_layer(&self, name: &str) {
        let mut held = self.held.lock().expect("no panic while held");
        if let Some(layer) = held.remove(name) {
            held.retain(|_, other| !Arc::ptr_eq(other, &layer));
        }
    }

    /// The stack of `names`, bottom first; layers that are not in memory are read from the store.
    pub fn stack(&self, mem_bytes: u64, names: &[LayerRef], blobs: &Blobs) -> Result<Arc<Stack>> {
        let key = (mem_bytes, names.to_vec());
        if let Some(stack) = self
            .stacks
            .lock()
            .expect("no panic while held")
            .get(&key)
            .and_then(Weak::upgrade)
        {
            return Ok(stack);
        }
        let layers = names
            .iter()
            .map(|name| self.layer(name, blobs))
            .collect::<Result<Vec<_>>>()?;
        let stack = Arc::new(Stack::new(mem_bytes, layers)?);
        let mut stacks = self.stacks.lock().expect("no panic while held");
        stacks.retain(|_, stack| stack.strong_count() > 0);
        stacks.insert(key, Arc::downgrade(&stack));
        Ok(stack)
    }

    fn layer(&self, name: &str, blobs: &Blobs) -> Result<Arc<Layer>> {
        if let Some(layer) = self.find(name) {
            return Ok(layer);
        }
        if !name.starts_with("sha256:") {
            return Err(PagerError::new(
                FaultCode::UnknownLayer,
                format!("layer {name} is not in memory"),
            ));
        }
        let _loading = self.loading.lock().expect("no panic while held");
        if let Some(layer) = self.find(name) {
            return Ok(layer);
        }
        let layer = Arc::new(blobs.load_layer(name)?);
        self.add_name(name, layer.clone());
        Ok(layer)
    }

    fn find(&self, name: &str) -> Option<Arc<Layer>> {
        self.held.lock().expect("no panic while held").get(name).cloned()
    }

    pub fn inventory(&self) -> Vec<HeldLayer> {
        let held = self.held.lock().expect("no panic while held");
        let mut layers: Vec<HeldLayer> = held
            .iter()
            .map(|(name, layer)| HeldLayer {
                layer: name.clone(),
                digest: layer.digest(),
                pages: layer.pages(),
                extents: layer.extents.len() as u64,
            })
            .collect();
        layers.sort_by(|a, b| a.layer.cmp(&b.layer));
        layers
    }
}
