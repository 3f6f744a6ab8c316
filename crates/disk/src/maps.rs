//! The maps of stacks that were used, so that the next disk on top of one need not read the layers' indexes.

use crate::layer::Layer;
use crate::map::Map;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// The most stacks whose map is kept.
const MAPS_MAX: usize = 64;

/// The map of the lowest layers of a stack.
#[derive(Debug, Clone)]
pub struct Known {
    pub map: Map,
    /// The size of the disk in blocks.
    pub blocks: u64,
    /// How many layers the map is of.
    pub layers: usize,
}

/// Maps by the numbers of the layers of their stacks, oldest first.
#[derive(Debug, Default)]
pub struct Maps {
    known: Mutex<VecDeque<(Vec<u32>, Known)>>,
}

impl Maps {
    pub fn keep(&self, layers: &[Arc<Layer>], map: &Map, blocks: u64) {
        let numbers = numbers_of(layers);
        let known = Known {
            map: map.clone(),
            blocks,
            layers: layers.len(),
        };
        let mut maps = self.known.lock().expect("no panic while held");
        maps.retain(|(other, _)| *other != numbers);
        maps.push_back((numbers, known));
        if maps.len() > MAPS_MAX {
            maps.pop_front();
        }
    }

    /// The map of the most layers of a stack, counted from the bottom.
    pub fn longest(&self, layers: &[Arc<Layer>]) -> Option<Known> {
        let numbers = numbers_of(layers);
        let maps = self.known.lock().expect("no panic while held");
        let below = maps.iter().filter(|(other, _)| numbers.starts_with(other));
        below
            .max_by_key(|(other, _)| other.len())
            .map(|(_, known)| known.clone())
    }

    /// Forgets the maps of stacks with a layer that is gone.
    pub fn forget(&self, layer: &Layer) {
        let mut maps = self.known.lock().expect("no panic while held");
        maps.retain(|(numbers, _)| !numbers.contains(&layer.number));
    }
}

fn numbers_of(layers: &[Arc<Layer>]) -> Vec<u32> {
    layers.iter().map(|layer| layer.number).collect()
}
