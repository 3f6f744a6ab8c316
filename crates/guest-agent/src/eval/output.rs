//! The output of an interpreter. The agent reads it all the time: a thread that logs never waits for the next evaluation.

use std::sync::Mutex;

use tokio::net::unix::pipe;
use tokio::task::yield_now;

/// Limit for one stream of an evaluation. More output is read and dropped.
const EVALUATION_BYTES_MAX: usize = 1024 * 1024;
/// Limit for what is printed between two evaluations. The oldest output is dropped; the rest belongs to the next evaluation.
const IDLE_BYTES_MAX: usize = 64 * 1024;

/// A stream of an interpreter: its stdout or its stderr.
pub struct Output {
    pipe: pipe::Receiver,
    captured: Mutex<Captured>,
}

#[derive(Default)]
pub struct Captured {
    bytes: Vec<u8>,
    pub dropped_bytes: u64,
    evaluating: bool,
}

impl Output {
    pub fn new(pipe: pipe::Receiver) -> Output {
        Output {
            pipe,
            captured: Mutex::default(),
        }
    }

    /// Reads until the stream ends.
    pub async fn pump(&self) {
        while self.pipe.readable().await.is_ok() && self.drain() {
            // A program that prints without end must not keep the other tasks waiting.
            yield_now().await;
        }
    }

    /// Begins an evaluation: the output from here on belongs to it.
    pub fn begin(&self) {
        self.captured.lock().expect("no holder panics").evaluating = true;
    }

    /// Ends an evaluation and gives the output until now. Later output belongs to the next evaluation.
    pub fn take(&self) -> Captured {
        self.drain();
        std::mem::take(&mut self.captured.lock().expect("no holder panics"))
    }

    /// Reads what the pipe holds, up to a pipe's worth. `false`: the stream has ended.
    fn drain(&self) -> bool {
        let mut captured = self.captured.lock().expect("no holder panics");
        let mut buffer = [0; 16 * 1024];
        for _ in 0..64 {
            match self.pipe.try_read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => captured.add(&buffer[..count]),
                Err(_) => return true,
            }
        }
        true
    }
}

impl Captured {
    fn add(&mut self, printed: &[u8]) {
        if self.evaluating {
            let room = EVALUATION_BYTES_MAX - self.bytes.len();
            self.bytes.extend_from_slice(&printed[..printed.len().min(room)]);
            self.dropped_bytes += printed.len().saturating_sub(room) as u64;
            return;
        }
        self.bytes.extend_from_slice(printed);
        let excess = self.bytes.len().saturating_sub(IDLE_BYTES_MAX);
        self.bytes.drain(..excess);
        self.dropped_bytes += excess as u64;
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}
