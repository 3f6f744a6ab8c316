//! Firecracker, of a build that can map memory shared, save its device state alone and hand over a userfaultfd.

mod api;
mod memory;

pub use api::Api;
pub use memory::{lend as lend_memory, path_of};
