//! Limits on what one sandbox may take of the process, and on how often it may do something.

use std::time::{Duration, Instant};

/// TCP flows of a sandbox that are open or being opened.
pub const TCP_FLOWS_MAX: usize = 512;
/// TCP flows of a sandbox that wait for a resolver or a server.
pub const DIALS_MAX: usize = 64;
/// UDP flows of a sandbox. The flow that was idle longest makes room for a further one.
pub const UDP_FLOWS_MAX: usize = 256;

/// Flows that a sandbox may begin per second, and at once.
pub const NEW_FLOWS: Rate = Rate {
    per_second: 200,
    burst: 400,
};
/// Denials that a sandbox's records tell of per second, and at once. Further ones are counted.
pub const DENIALS: Rate = Rate {
    per_second: 100,
    burst: 500,
};

/// Time for a name to be resolved and its server to accept.
pub const DIAL_PATIENCE: Duration = Duration::from_secs(10);
/// Time for a resolver to answer before the next one is asked.
pub const RESOLVER_PATIENCE: Duration = Duration::from_secs(2);
/// Time for a ClientHello to be complete after its first byte.
pub const HELLO_PATIENCE: Duration = Duration::from_secs(30);
/// A UDP flow that is idle for longer is closed.
pub const UDP_IDLE: Duration = Duration::from_secs(60);

/// Flows that have large buffers, here and in the kernel. Further ones have [`SMALL_BUFFER_BYTES`] in each.
const LARGE_FLOWS: usize = 32;
pub const SMALL_BUFFER_BYTES: usize = 32 << 10;

/// True if a further flow is to have small buffers.
pub fn is_crowded(flows_open: usize) -> bool {
    flows_open >= LARGE_FLOWS
}

/// Bytes that a TCP flow holds in each direction. All flows together hold at most 46 MiB.
pub fn buffer_bytes(flows_open: usize) -> usize {
    if is_crowded(flows_open) {
        SMALL_BUFFER_BYTES
    } else {
        256 << 10
    }
}

/// A limit of how often something may happen.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

/// A token bucket.
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub fn new(rate: Rate, now: Instant) -> Bucket {
        Bucket {
            rate,
            tokens: rate.burst.into(),
            filled: now,
        }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let grown = now.saturating_duration_since(self.filled).as_secs_f64() * f64::from(self.rate.per_second);
        self.tokens = (self.tokens + grown).min(self.rate.burst.into());
        self.filled = now;
        let has_token = self.tokens >= 1.0;
        if has_token {
            self.tokens -= 1.0;
        }
        has_token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(
            Rate {
                per_second: 10,
                burst: 3,
            },
            start,
        );
        let mut taken = |at: Instant| (0..100).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(start), 3);
        assert_eq!(taken(start + Duration::from_millis(250)), 2);
        assert_eq!(taken(start + Duration::from_secs(60)), 3);
    }
}
