//! Captures anonymous memory of this process at one instant while a thread of it writes there, and compares what was
//! captured with a copy made at the instant: `cargo run --release -p forkd-capture --example wp_branch`.

use forkd_capture::{Result, Run, Sink, Statistics, Target, WpBranch};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::Mapping;
use forkd_linux_sys::uffd::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};

const PAGES: usize = 16_384;

/// Captures `range` of this process, whose writers are stopped only between `stop` and `go_on`.
fn capture(range: Range, sink: Arc<dyn Sink>, stop: impl FnOnce(), go_on: impl FnOnce()) -> Result<Statistics> {
    let mut branch = WpBranch::arm(Target::own(range)?, sink)?;
    stop();
    let taken = branch.take();
    go_on();
    taken?;
    branch.copy(|| false)?;
    let (_set, statistics) = branch.finish()?;
    Ok(statistics)
}

/// Keeps each page at its own place.
struct Image(Mapping);

impl Sink for Image {
    fn put(&self, run: Run, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write(run.page as usize * PAGE_SIZE, bytes);
        Ok(())
    }
}

/// Counts in one page after the other until it is told to end; where it is told to stop, it meets whoever stops it.
fn write(memory: &Mapping, stop: &AtomicBool, end: &AtomicBool, meeting: &Barrier) {
    for page in (0..PAGES).cycle() {
        if stop.load(Ordering::Acquire) {
            meeting.wait();
            meeting.wait();
        }
        if end.load(Ordering::Acquire) {
            return;
        }
        memory.word(page * PAGE_SIZE).fetch_add(1, Ordering::Relaxed);
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let memory = Mapping::anonymous(PAGES * PAGE_SIZE)?;
    (0..PAGES).for_each(|page| memory.write(page * PAGE_SIZE, &[1; PAGE_SIZE]));
    let image = Arc::new(Image(Mapping::anonymous(memory.len())?));
    let start = memory.target(0, memory.len()) as u64;
    let range = Range {
        start,
        end: start + memory.len() as u64,
    };
    let (stop, end, meeting) = (AtomicBool::new(false), AtomicBool::new(false), Barrier::new(2));
    let mut reference = Vec::new();
    let statistics = std::thread::scope(|scope| {
        scope.spawn(|| write(&memory, &stop, &end, &meeting));
        let stop_it = || {
            stop.store(true, Ordering::Release);
            meeting.wait();
        };
        let let_it_go_on = || {
            reference = memory.bytes(0, memory.len()).to_vec();
            stop.store(false, Ordering::Release);
            meeting.wait();
        };
        let statistics = capture(range, image.clone(), stop_it, let_it_go_on);
        end.store(true, Ordering::Release);
        statistics
    })?;
    let same = image.0.bytes(0, memory.len()) == reference;
    println!("{statistics:#?}");
    println!(
        "{} the copy made at the instant",
        if same { "equal to" } else { "DIFFERENT from" }
    );
    if same {
        Ok(())
    } else {
        Err("the capture is wrong".into())
    }
}
