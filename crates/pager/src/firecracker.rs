//! Firecracker, in a build that can map memory shared, save its device state alone and hand over a userfaultfd.

mod api;
mod lent;
mod memory;

pub use api::Api;
pub use lent::Lent;
