//! The processor's counter. A guest's kernel may have given it up for one that knows nothing between two ticks of its timer,
//! which is too coarse to see a gap; and a look at it costs less than one at the kernel's clock.

/// Reads the counter.
pub fn now() -> u64 {
    // SAFETY: every x86-64 processor has the counter, and Linux lets programs read it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// How fast it counts: what the kernel takes the processor's frequency to be.
pub fn ticks_per_ms() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("cpu MHz"))?;
    let mhz: f64 = line.split(':').nth(1)?.trim().parse().ok()?;
    (mhz >= 1.0).then_some((mhz * 1_000.0) as u64)
}
