//! Disks of virtual machines, served over NBD from immutable layers of blocks.
//!
//! 1. A [`map`] says which block of a disk is where. It is immutable, so a fork or a branch is a clone of one pointer.
//! 2. A [`disk`] writes to one layer of its own, with a [`journal`], and reads from all. A branch is one number that grows: see [`epoch`].
//! 3. A sealed layer becomes a file of the store: see [`layer_file`].
//! 4. VMMs call over [`nbd`], the controller over a socket of its own: see [`control`].

mod audit;
mod callers;
mod content;
pub mod control;
pub mod disk;
pub mod disks;
pub mod epoch;
pub mod error;
pub mod journal;
pub mod layer;
pub mod layer_file;
pub mod layers;
pub mod map;
mod maps;
pub mod nbd;
pub mod recovery;
pub mod slots;
pub mod stack;
#[cfg(test)]
mod testing;

pub mod writer;
