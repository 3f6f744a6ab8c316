//! Whether the host has enough memory.

use crate::error::{LayerError, LayerErrorKind, Result, Step};
use forkd_linux_sys::PAGE_SIZE;

/// Host memory that is always left free.
const RESERVE_BYTES: u64 = 256 << 20;

/// The default budget of unused layers is the host's memory divided by this.
const BUDGET_SHARE: u64 = 16;

/// The default of [`crate::Layers::new`]'s budget, in bytes.
pub fn default_budget_bytes() -> Result<u64> {
    Ok(meminfo_kib("MemTotal")?.unwrap_or(0) * 1024 / BUDGET_SHARE)
}

/// Fails with `OutOfMemory` unless the host has memory for `pages` pages, which `what` takes. To run out of memory half-way
/// would end some process or other.
pub fn require(pages: u64, what: &str) -> Result<()> {
    let wanted = pages * PAGE_SIZE as u64;
    let kib = meminfo_kib("MemAvailable")?.unwrap_or(u64::MAX >> 10);
    if wanted + RESERVE_BYTES <= kib << 10 {
        return Ok(());
    }
    let message = format!(
        "{what} needs {} MiB of memory and the host has {} MiB",
        wanted >> 20,
        kib >> 10
    );
    Err(LayerError::new(LayerErrorKind::OutOfMemory, message))
}

/// A field of `/proc/meminfo`, in KiB. `None` if the kernel has no such field.
pub(crate) fn meminfo_kib(field: &str) -> Result<Option<u64>> {
    let text = std::fs::read_to_string("/proc/meminfo").step(|| "reading /proc/meminfo".into())?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()))
}
