//! Makes the kernel of this host move, swap and collapse memory, for tests and long runs of what must hold meanwhile. Needs root.
//! Each value restores the host's settings when it is dropped.

mod hurry;
mod repeat;
mod swap;

pub use hurry::HurriedCollapse;
pub use repeat::{Repeat, compaction};
pub use swap::{Swap, SwapKind};

use std::io;

/// A counter of `/proc/vmstat`, such as `pgmigrate_success`, `pswpin` or `thp_collapse_alloc`. Zero when the kernel has none
/// of that name.
pub fn vmstat(name: &str) -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/vmstat")?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.and_then(|value| value.parse().ok()).unwrap_or(0))
}
