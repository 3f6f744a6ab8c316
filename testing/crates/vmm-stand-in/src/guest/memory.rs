//! Memory usage, as the kernel reports it.

use super::Guest;
use forkd_linux_sys::uffd::Range;
use serde_json::{Value, json};
use std::io;

impl Guest {
    /// The kernel's figures for the regions, in KiB.
    pub(super) fn memory(&self) -> io::Result<Value> {
        let text = std::fs::read_to_string("/proc/self/smaps")?;
        let (mut inside, mut rss, mut anonymous, mut pss) = (false, 0, 0, 0);
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let first = words.next().unwrap_or_default();
            let kib = || words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
            match first {
                "Rss:" if inside => rss += { kib }(),
                "Pss:" if inside => pss += { kib }(),
                "Anonymous:" if inside => anonymous += { kib }(),
                _ => {
                    if let Some((start, _)) = first.split_once('-') {
                        let start = u64::from_str_radix(start, 16).unwrap_or(0);
                        let is_in = |range: Range| (range.start..range.end).contains(&start);
                        inside = self.regions.ranges().any(is_in);
                    }
                }
            }
        }
        Ok(json!({ "rss_kib": rss, "pss_kib": pss, "anonymous_kib": anonymous }))
    }
}
