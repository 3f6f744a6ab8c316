//! Lines on standard input, which another thread waits for: a look at whether one has come costs one load.

use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Stands for the end of the input in the count of lines.
const ENDED: u64 = u64::MAX;

pub enum Request {
    None,
    Line,
    End,
}

pub struct Requests {
    lines: Arc<AtomicU64>,
    taken: u64,
}

impl Requests {
    pub fn listen() -> Requests {
        let lines = Arc::new(AtomicU64::new(0));
        let theirs = lines.clone();
        std::thread::spawn(move || {
            for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
                theirs.fetch_add(1, Ordering::Relaxed);
            }
            theirs.store(ENDED, Ordering::Relaxed);
        });
        Requests { lines, taken: 0 }
    }

    pub fn take(&mut self) -> Request {
        let lines = self.lines.load(Ordering::Relaxed);
        if lines == self.taken {
            return Request::None;
        }
        if lines == ENDED {
            return Request::End;
        }
        self.taken += 1;
        Request::Line
    }
}
