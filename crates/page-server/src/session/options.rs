//! How a fork is served, and how that ends.

use crate::error::PageError;
use crate::record::Record;
use std::time::Duration;

/// How a fork is served.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// Pages of 4 KiB that are filled for one fault, at most: many where a fork asks for one after the other, few where
    /// it does not.
    pub fault_around: u64,
    /// How long to retry when the template does not answer.
    pub patience: Duration,
    /// The pages that another fork of the template asked for. Those pages are filled in that order before this fork asks.
    pub prefetch: Option<Record>,
    /// Fill all of memory, and then leave the VMM to itself.
    pub populate: bool,
}

impl Default for SessionOptions {
    fn default() -> SessionOptions {
        SessionOptions {
            fault_around: 32,
            patience: Duration::from_secs(5),
            prefetch: None,
            populate: false,
        }
    }
}

/// How a session ended.
#[derive(Debug, Clone)]
pub enum Ended {
    /// The VMM has ended.
    VmmGone,
    /// The VMM has all of its memory and runs on by itself.
    Detached,
    /// The fork could not be served any longer, and its VMM was ended: missing pages must not read as zeros.
    Failed(PageError),
}
