//! Something that is done again and again beside a test.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Rest between two passes, so that others get the processor too.
const REST: Duration = Duration::from_millis(2);

/// A thread that repeats an action until it is dropped, or until the action fails.
pub struct Repeat {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    end: AtomicBool,
    times: AtomicU64,
}

impl Repeat {
    pub fn start(mut action: impl FnMut() -> io::Result<()> + Send + 'static) -> Repeat {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = std::thread::spawn(move || {
            while !theirs.end.load(Ordering::Acquire) && action().is_ok() {
                theirs.times.fetch_add(1, Ordering::Relaxed);
            }
        });
        Repeat {
            shared,
            thread: Some(thread),
        }
    }

    /// How often the action has succeeded.
    pub fn times(&self) -> u64 {
        self.shared.times.load(Ordering::Relaxed)
    }
}

impl Drop for Repeat {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic of the action has been printed, and is no reason for another one here.
            let _ = thread.join();
        }
    }
}

/// Has the kernel compact all memory, over and over. Each pass moves pages of every process.
pub fn compaction() -> io::Result<Repeat> {
    let mut file = OpenOptions::new().write(true).open("/proc/sys/vm/compact_memory")?;
    Ok(Repeat::start(move || {
        std::thread::sleep(REST);
        file.write_all(b"1")
    }))
}
