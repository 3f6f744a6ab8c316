//! Whether the host has memory for what is asked.

use crate::error::{PagerError, Result, Step};
use forkd_linux_sys::PAGE_SIZE;
use forkd_protocol::FaultCode;

/// Host memory that is left alone.
const RESERVE_BYTES: u64 = 256 << 20;

/// Refuses `what`, which takes `pages` pages, when the host has no memory for it: running out in the middle would end
/// some process or other.
pub fn check(pages: u64, what: &str) -> Result<()> {
    let wanted = pages * PAGE_SIZE as u64;
    let text = std::fs::read_to_string("/proc/meminfo").step(|| "reading /proc/meminfo".into())?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or(u64::MAX >> 10);
    if wanted + RESERVE_BYTES <= kib << 10 {
        return Ok(());
    }
    let message = format!(
        "{what} needs {} MiB of memory and the host has {} MiB",
        wanted >> 20,
        kib >> 10
    );
    Err(PagerError::new(FaultCode::OutOfMemory, message))
}
