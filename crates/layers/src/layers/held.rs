//! The state that the lock of `Layers` guards: names, the layers in memory, and what is known of layers that were dropped.

use crate::layer::Layer;
use crate::shelf::{Kept, Shelf};
use crate::views::{Key, Views};
use std::collections::HashMap;
use std::sync::Arc;

/// The name of a layer: `ram:<n>` or `sha256:…`.
pub type LayerName = String;

/// A layer under one of its names.
#[derive(Debug, Clone)]
pub struct HeldLayer {
    pub name: LayerName,
    /// The layer's digest, once it is on disk.
    pub digest: Option<String>,
    pub pages: u64,
    pub extents: u64,
    /// False if the layer was dropped: it is read from the store when it is needed.
    pub in_memory: bool,
}

/// How much memory layers take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// How much memory unused layers may take.
    pub budget_bytes: u64,
    /// The memory of layers in use.
    pub used_bytes: u64,
    /// The memory of unused layers that are on disk.
    pub unused_bytes: u64,
    /// The memory of unused layers that are not on disk.
    pub pending_bytes: u64,
    /// The memory of merged views, which are also counted as used or unused.
    pub view_bytes: u64,
    /// Layers and views in memory.
    pub layers: u64,
    /// How many layers were dropped, and how many of them were read again.
    pub let_go: u64,
    pub loaded_again: u64,
    /// Merged views that were made in the background.
    pub merged: u64,
    /// Merged views that a caller waited for, and how long they took in all, in microseconds.
    pub merged_on_demand: u64,
    pub merged_on_demand_us: u64,
}

/// A layer that was dropped from memory: it is in the store.
#[derive(Debug)]
struct Gone {
    digest: String,
    pages: u64,
    extents: u64,
}

#[derive(Debug, Default)]
pub struct Counts {
    let_go: u64,
    loaded_again: u64,
    pub merged: u64,
    pub merged_on_demand: u64,
    pub merged_on_demand_us: u64,
}

/// The place of a layer.
pub enum Found {
    InMemory(Arc<Layer>),
    /// In the store, under this digest.
    OnDisk(String),
    Nowhere,
}

#[derive(Debug)]
pub struct Held {
    pub budget_bytes: u64,
    pub counts: Counts,
    pub views: Views,
    /// Each layer has one number for all its names, which it keeps when it is dropped from memory.
    names: HashMap<LayerName, u64>,
    shelf: Shelf<Layer>,
    gone: HashMap<u64, Gone>,
    next: u64,
}

impl Held {
    pub fn new(budget_bytes: u64) -> Held {
        Held {
            budget_bytes,
            counts: Counts::default(),
            views: Views::default(),
            names: HashMap::new(),
            shelf: Shelf::default(),
            gone: HashMap::new(),
            next: 0,
        }
    }

    fn put(&mut self, layer: Arc<Layer>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.shelf.put(number, layer);
        number
    }

    pub fn add(&mut self, layer: Arc<Layer>) -> LayerName {
        let number = self.put(layer);
        let name = format!("ram:{number}");
        self.names.insert(name.clone(), number);
        name
    }

    pub fn add_name(&mut self, digest: &str, layer: &Arc<Layer>) {
        if self.names.contains_key(digest) {
            return;
        }
        let number = self.shelf.number_of(layer).unwrap_or_else(|| self.put(layer.clone()));
        self.names.insert(digest.into(), number);
    }

    pub fn add_view(&mut self, key: Key, view: Arc<Layer>) {
        let number = self.put(view);
        if let Some(before) = self.views.insert(key, number) {
            self.shelf.remove(before);
        }
    }

    /// The key of a stack. `None` if one of its layers is not known.
    pub fn key(&self, mem_bytes: u64, names: &[LayerName]) -> Option<Key> {
        let numbers = names.iter().map(|name| self.names.get(name).copied());
        Some((mem_bytes, numbers.collect::<Option<_>>()?))
    }

    /// The view of the longest part of a stack, and the number of layers that it stands for.
    pub fn view(&mut self, key: &Key) -> Option<(usize, Arc<Layer>)> {
        let (depth, number) = self.views.find(key)?;
        Some((depth, self.shelf.get(number)?))
    }

    pub fn find(&mut self, name: &str) -> Found {
        let Some(&number) = self.names.get(name) else {
            return if name.starts_with("sha256:") {
                Found::OnDisk(name.into())
            } else {
                Found::Nowhere
            };
        };
        if let Some(layer) = self.shelf.get(number) {
            return Found::InMemory(layer);
        }
        let Some(Gone { digest, .. }) = self.gone.get(&number) else {
            return Found::Nowhere;
        };
        // Another layer with the same content may be in memory.
        let twin = self.names.get(digest).and_then(|&number| self.shelf.get(number));
        twin.map_or_else(|| Found::OnDisk(digest.clone()), Found::InMemory)
    }

    /// Takes back a layer that was read from the store as `digest`.
    pub fn put_back(&mut self, name: &str, digest: &str, layer: Arc<Layer>) {
        match self.names.get(name) {
            Some(&number) => {
                self.gone.remove(&number);
                self.shelf.put(number, layer);
                self.counts.loaded_again += 1;
            }
            // The layer is new, or was forgotten while it was read.
            None => self.add_name(digest, &layer),
        }
    }

    /// Forgets a layer and the views that contain it. The caller drops what is returned after it has released the lock.
    pub fn remove(&mut self, name: &str) -> Vec<Arc<Layer>> {
        let Some(number) = self.names.remove(name) else {
            return Vec::new();
        };
        self.names.retain(|_, other| *other != number);
        self.gone.remove(&number);
        let mut removed: Vec<_> = self.shelf.remove(number).into_iter().collect();
        for view in self.views.numbers(Some(number)) {
            self.views.forget(view);
            removed.extend(self.shelf.remove(view));
        }
        removed
    }

    pub fn set_aside(&mut self, names: &[LayerName]) {
        for name in names {
            if let Some(&number) = self.names.get(name) {
                self.shelf.set_aside(number);
                self.views
                    .numbers(Some(number))
                    .into_iter()
                    .for_each(|view| self.shelf.set_aside(view));
            }
        }
    }

    /// Takes unused layers beyond the budget out of memory. The caller drops what is returned after it has released the lock.
    pub fn let_go(&mut self, budget_bytes: u64) -> Vec<Arc<Layer>> {
        let gone = self.shelf.take_surplus(budget_bytes);
        self.note_gone(gone)
    }

    pub fn take_unused_views(&mut self) -> Vec<Arc<Layer>> {
        let gone = self.shelf.take_unused(&self.views.numbers(None));
        self.note_gone(gone)
    }

    fn note_gone(&mut self, gone: Vec<(u64, Arc<Layer>)>) -> Vec<Arc<Layer>> {
        let mut layers = Vec::with_capacity(gone.len());
        for (number, layer) in gone {
            // A view has no digest. It is made again when it is wanted.
            if !self.views.forget(number) {
                let digest = layer.digest().expect("only layers on disk are dropped");
                let (pages, extents) = (layer.pages(), layer.extents.len() as u64);
                self.gone.insert(number, Gone { digest, pages, extents });
                self.counts.let_go += 1;
            }
            layers.push(layer);
        }
        layers
    }

    pub fn view_bytes(&self) -> u64 {
        let bytes = |number| self.shelf.peek(number).map_or(0, Kept::bytes);
        self.views.numbers(None).into_iter().map(bytes).sum()
    }

    pub fn inventory(&self) -> Vec<HeldLayer> {
        let held = |(name, number): (&LayerName, &u64)| match (self.shelf.peek(*number), self.gone.get(number)) {
            (Some(found), _) => Some(HeldLayer {
                name: name.clone(),
                digest: found.digest(),
                pages: found.pages(),
                extents: found.extents.len() as u64,
                in_memory: true,
            }),
            (None, Some(gone)) => Some(HeldLayer {
                name: name.clone(),
                digest: Some(gone.digest.clone()),
                pages: gone.pages,
                extents: gone.extents,
                in_memory: false,
            }),
            (None, None) => None,
        };
        let mut layers: Vec<HeldLayer> = self.names.iter().filter_map(held).collect();
        layers.sort_by(|a, b| a.name.cmp(&b.name));
        layers
    }

    pub fn memory_use(&self) -> MemoryUse {
        let usage = self.shelf.usage();
        MemoryUse {
            budget_bytes: self.budget_bytes,
            used_bytes: usage.used_bytes,
            unused_bytes: usage.unused_bytes,
            pending_bytes: usage.bound_bytes,
            view_bytes: self.view_bytes(),
            layers: self.shelf.len() as u64,
            let_go: self.counts.let_go,
            loaded_again: self.counts.loaded_again,
            merged: self.counts.merged,
            merged_on_demand: self.counts.merged_on_demand,
            merged_on_demand_us: self.counts.merged_on_demand_us,
        }
    }
}
