//! Looks at the clock, and keeps the longest time between two looks. It counts in ticks of the processor's counter.

use std::fmt::Write;

const LINE_MS: u64 = 100;
const WINDOW_MS: u64 = 10;
/// Number of windows that are kept. Afterwards the last one is extended until it is requested.
const WINDOWS_MAX: usize = 1 << 14;

struct Window {
    end: u64,
    writes: u64,
    gap: u64,
}

pub struct Ticker {
    ticks_per_ms: u64,
    start: u64,
    last: u64,
    /// Since the last line.
    line_at: u64,
    gap_max: u64,
    windows: Vec<Window>,
    /// Start of the window that is not closed yet.
    window_at: u64,
    window_gap: u64,
    window_writes: u64,
}

impl Ticker {
    pub fn start(now: u64, ticks_per_ms: u64) -> Ticker {
        Ticker {
            ticks_per_ms,
            start: now,
            last: now,
            line_at: now,
            gap_max: 0,
            windows: Vec::with_capacity(WINDOWS_MAX),
            window_at: now,
            window_gap: 0,
            window_writes: 0,
        }
    }

    /// `writes`: the pages written since the start.
    pub fn look(&mut self, now: u64, writes: u64) {
        self.window_gap = self.window_gap.max(now - self.last);
        self.last = now;
        if now - self.window_at >= WINDOW_MS * self.ticks_per_ms && self.windows.len() < WINDOWS_MAX {
            self.close_window(writes);
        }
    }

    /// Whether the time for a line has come.
    pub fn is_line_due(&self) -> bool {
        self.last - self.line_at >= LINE_MS * self.ticks_per_ms
    }

    /// The line to print now.
    pub fn line(&mut self, writes: u64, errors: u64, with_windows: bool) -> String {
        self.close_window(writes);
        let (gap, elapsed_ms) = (self.micros(self.gap_max), self.micros(self.last - self.start) / 1_000);
        let mut line = format!(r#"{{"writes":{writes},"errors":{errors},"gap_us_max":{gap},"elapsed_ms":{elapsed_ms}"#);
        if with_windows {
            line.push_str(r#","windows":["#);
            for (index, window) in self.windows.iter().enumerate() {
                let comma = if index == 0 { "" } else { "," };
                let (end, gap) = (self.micros(window.end - self.start), self.micros(window.gap));
                write!(line, "{comma}[{end},{},{gap}]", window.writes).expect("a string takes all");
            }
            line.push(']');
        }
        line.push('}');
        line
    }

    /// Starts again after a line has been printed, because that is no gap of the machine.
    pub fn next_line(&mut self, now: u64, writes: u64) {
        (self.last, self.line_at, self.window_at) = (now, now, now);
        (self.gap_max, self.window_gap, self.window_writes) = (0, 0, writes);
        self.windows.clear();
    }

    fn close_window(&mut self, writes: u64) {
        self.windows.push(Window {
            end: self.last,
            writes: writes - self.window_writes,
            gap: self.window_gap,
        });
        self.gap_max = self.gap_max.max(self.window_gap);
        (self.window_at, self.window_gap, self.window_writes) = (self.last, 0, writes);
    }

    fn micros(&self, ticks: u64) -> u64 {
        (u128::from(ticks) * 1_000 / u128::from(self.ticks_per_ms)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A gap belongs to the window in which it ended, and to no other. Windows follow each other without a hole. Time in
    /// which a line is printed belongs to no window.
    #[test]
    fn a_gap_belongs_to_its_window() {
        let mut ticker = Ticker::start(1_000, 1_000);
        for (now, writes) in [(6_000, 4), (11_000, 8), (41_500, 12), (42_000, 16)] {
            ticker.look(now, writes);
        }
        assert!(!ticker.is_line_due());
        assert_eq!(
            ticker.line(16, 0, true),
            r#"{"writes":16,"errors":0,"gap_us_max":30500,"elapsed_ms":41,"windows":[[10000,8,5000],[40500,4,30500],[41000,4,500]]}"#
        );
        ticker.next_line(942_000, 16);
        ticker.look(942_700, 20);
        assert!(!ticker.is_line_due());
        assert_eq!(
            ticker.line(20, 1, true),
            r#"{"writes":20,"errors":1,"gap_us_max":700,"elapsed_ms":941,"windows":[[941700,4,700]]}"#
        );
        ticker.look(1_042_000, 24);
        assert!(ticker.is_line_due());
    }

    /// If the windows are full, the last one is extended, so that no gap is lost.
    #[test]
    fn no_gap_is_lost_when_nobody_asks() {
        let mut ticker = Ticker::start(0, 1);
        for window in 1..=WINDOWS_MAX as u64 {
            ticker.look(window * WINDOW_MS, window);
        }
        let end = WINDOWS_MAX as u64 * WINDOW_MS;
        ticker.look(end + 500, WINDOWS_MAX as u64 + 1);
        ticker.look(end + 600, WINDOWS_MAX as u64 + 2);
        let line = ticker.line(WINDOWS_MAX as u64 + 2, 0, true);
        assert!(line.contains(r#""gap_us_max":500000,"#));
        assert!(line.ends_with(&format!("[{},2,500000]]}}", (end + 600) * 1_000)));
    }
}
