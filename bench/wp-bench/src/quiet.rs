//! How fast memory can be copied while nobody writes to it: by a capture, and by nothing but `process_vm_readv`.

use crate::region::{MemfdSink, Region};
use forkd_capture::WpBranch;
use forkd_linux_sys::memfd::{self, Mapping};
use forkd_linux_sys::{PAGE_SIZE, process};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The loop's calls, as large as one is likely to write them.
const PAGES_A_CALL: usize = 64;
/// Each figure is the median of so many tries.
const TRIES: usize = 3;

/// `WpBranch::copy` into a new memfd.
pub fn copy_mib_per_s(region: &Region) -> Result<f64, Box<dyn Error>> {
    let target = region.target()?;
    median(|| {
        let sink = Arc::new(MemfdSink::new(region.pages())?);
        let mut branch = WpBranch::arm(target.clone(), sink)?;
        branch.take()?;
        let start = Instant::now();
        branch.copy(|| false)?;
        let took = start.elapsed();
        branch.finish()?;
        Ok(mib_per_s(region.bytes().len(), took))
    })
}

/// A loop of `process_vm_readv` into a mapping of a new memfd, no page of which is there yet.
pub fn readv_mib_per_s(region: &Region) -> Result<f64, Box<dyn Error>> {
    let len = region.bytes().len();
    median(|| {
        let file = memfd::create(c"forkd-copy", len as u64)?;
        let mut copy = Mapping::read_write(&file, len)?;
        let start = Instant::now();
        for (remote, local) in calls(region, copy.bytes_mut(0, len)) {
            process::readv_into(region.source().pid, remote, local)?;
        }
        Ok(mib_per_s(len, start.elapsed()))
    })
}

/// The same into one buffer, over and over: as if what was read went nowhere.
pub fn readv_reused_mib_per_s(region: &Region) -> Result<f64, Box<dyn Error>> {
    let len = region.bytes().len();
    let mut buffer = vec![1; PAGES_A_CALL * PAGE_SIZE];
    median(|| {
        let start = Instant::now();
        for remote in (0..len).step_by(buffer.len()) {
            let room = buffer.len().min(len - remote);
            process::readv_into(
                region.source().pid,
                region.source().range().start + remote as u64,
                &mut buffer[..room],
            )?;
        }
        Ok(mib_per_s(len, start.elapsed()))
    })
}

/// Source and target of each call of the loop.
fn calls<'a>(region: &Region, copy: &'a mut [u8]) -> impl Iterator<Item = (u64, &'a mut [u8])> {
    let size = PAGES_A_CALL * PAGE_SIZE;
    let start = region.source().range().start;
    copy.chunks_mut(size)
        .enumerate()
        .map(move |(call, local)| (start + (call * size) as u64, local))
}

fn median(measure: impl FnMut() -> Result<f64, Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let mut figures: Vec<f64> = std::iter::repeat_with(measure).take(TRIES).collect::<Result<_, _>>()?;
    figures.sort_unstable_by(f64::total_cmp);
    Ok(figures[TRIES / 2])
}

/// How fast `bytes` have been copied.
pub fn mib_per_s(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / f64::from(1 << 20) / took.as_secs_f64()
}
