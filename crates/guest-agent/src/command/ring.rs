//! The last bytes of a command's output, each with the offset that it has in the whole output.

use std::collections::VecDeque;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A run of bytes of one stream, up to the offset `end`.
struct Run {
    stream: Stream,
    end: u64,
}

pub struct Ring {
    bytes: VecDeque<u8>,
    runs: VecDeque<Run>,
    /// Offset of the first byte kept.
    start: u64,
    capacity: usize,
}

/// Each run costs memory beside its bytes: of a capacity of N bytes there are at most N / this many.
const BYTES_PER_RUN_MIN: usize = 32;

impl Ring {
    pub fn new(capacity: usize) -> Ring {
        Ring {
            bytes: VecDeque::new(),
            runs: VecDeque::new(),
            start: 0,
            capacity,
        }
    }

    pub fn start(&self) -> u64 {
        self.start
    }

    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// How many bytes can be pushed so that none from `keep_from` on is lost.
    pub fn room(&self, keep_from: u64) -> usize {
        let kept = self.end() - keep_from.clamp(self.start, self.end());
        let free = self.capacity.saturating_sub(kept as usize);
        let first_kept = self.runs.partition_point(|run| run.end <= keep_from);
        if self.runs.len() - first_kept >= self.runs_max() {
            0
        } else {
            free
        }
    }

    fn runs_max(&self) -> usize {
        (self.capacity / BYTES_PER_RUN_MIN).max(2)
    }

    /// Appends, and drops the oldest bytes over the capacity.
    pub fn push(&mut self, stream: Stream, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.bytes.extend(bytes);
        let end = self.end();
        match self.runs.back_mut() {
            Some(run) if run.stream == stream => run.end = end,
            _ => self.runs.push_back(Run { stream, end }),
        }
        self.drop_to(end.saturating_sub(self.capacity as u64));
        while self.runs.len() > self.runs_max() {
            self.drop_to(self.runs[0].end);
        }
        debug_assert_eq!(self.runs.back().map(|run| run.end), Some(self.end()));
    }

    fn drop_to(&mut self, offset: u64) {
        if offset <= self.start {
            return;
        }
        self.bytes.drain(..(offset - self.start) as usize);
        self.start = offset;
        while self.runs.front().is_some_and(|run| run.end <= offset) {
            self.runs.pop_front();
        }
    }

    /// Up to `length_max` bytes of one stream from `offset` on. `None` at the end, and where `offset` is lost already.
    pub fn read(&self, offset: u64, length_max: usize) -> Option<(Stream, Vec<u8>)> {
        if offset < self.start || offset >= self.end() {
            return None;
        }
        let run = &self.runs[self.runs.partition_point(|run| run.end <= offset)];
        let from = (offset - self.start) as usize;
        let length = ((run.end - offset) as usize).min(length_max);
        let mut bytes = Vec::with_capacity(length);
        let (head, tail) = self.bytes.as_slices();
        if from < head.len() {
            bytes.extend_from_slice(&head[from..head.len().min(from + length)]);
        }
        let rest = length - bytes.len();
        let tail_from = (from + bytes.len()).saturating_sub(head.len());
        bytes.extend_from_slice(&tail[tail_from..tail_from + rest]);
        Some((run.stream, bytes))
    }
}

#[cfg(test)]
mod tests {
    //! Proves the ring against the plainest model: the whole output, each byte with its stream.

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_kept_is_the_end_of_the_output(
            pushes in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..90)), 0..60),
            capacity in 1usize..400,
            read_max in 1usize..50,
        ) {
            let mut ring = Ring::new(capacity);
            let mut all: Vec<(Stream, u8)> = Vec::new();
            for (err, bytes) in &pushes {
                let stream = if *err { Stream::Stderr } else { Stream::Stdout };
                ring.push(stream, bytes);
                all.extend(bytes.iter().map(|byte| (stream, *byte)));
            }
            prop_assert_eq!(ring.end(), all.len() as u64);
            prop_assert!(ring.bytes.len() <= capacity);
            let mut read = Vec::new();
            let mut offset = ring.start();
            while let Some((stream, bytes)) = ring.read(offset, read_max) {
                offset += bytes.len() as u64;
                read.extend(bytes.into_iter().map(|byte| (stream, byte)));
            }
            prop_assert_eq!(offset, ring.end());
            prop_assert_eq!(&read[..], &all[ring.start() as usize..]);
        }

        #[test]
        fn bytes_pushed_into_room_lose_nothing(
            pushes in prop::collection::vec((any::<bool>(), 1usize..90), 0..80),
            keep in 0u64..300,
        ) {
            let mut ring = Ring::new(256);
            for (err, length) in pushes {
                let stream = if err { Stream::Stderr } else { Stream::Stdout };
                let room = ring.room(keep);
                ring.push(stream, &vec![1; length.min(room)]);
                prop_assert!(ring.start() <= keep);
            }
        }
    }

    #[test]
    fn one_byte_runs_are_bounded() {
        let mut ring = Ring::new(1024);
        for index in 0..1000 {
            let stream = if index % 2 == 0 { Stream::Stdout } else { Stream::Stderr };
            ring.push(stream, b"x");
        }
        assert!(ring.runs.len() <= ring.runs_max());
        assert_eq!(ring.end(), 1000);
    }
}
