//! `forkd-storm MIB`: fills MIB MiB, then rewrites random pages of it for ever, checking before each write that the page
//! holds what was last written there. A page that was captured at a wrong moment, or restored wrongly, shows as an error.
//!
//! Prints a line of JSON about every 100 ms: `{"writes", "errors", "gap_us_max", "elapsed_ms"}`: pages written and errors
//! found since the start, and the longest time between two looks at the clock since the last line, which is what a pause
//! of the VM looks like from inside.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const WORDS_A_PAGE: usize = 512;
/// A page is written at this many places, spread over it.
const PLACES: usize = 8;
/// Pages between two looks at the clock.
const BATCH: usize = 16;
const LINE_EVERY: Duration = Duration::from_millis(100);

struct Storm {
    memory: Vec<u64>,
    seed: u64,
    writes: u64,
    errors: u64,
}

fn main() -> ExitCode {
    let mib = std::env::args()
        .nth(1)
        .and_then(|text| text.parse::<usize>().ok())
        .filter(|mib| *mib > 0);
    let Some(mib) = mib else {
        eprintln!("usage: forkd-storm MIB");
        return ExitCode::from(2);
    };
    let mut storm = Storm {
        memory: vec![0; mib << 17],
        seed: 0x5eed,
        writes: 0,
        errors: 0,
    };
    (0..storm.pages()).for_each(|page| storm.write(page, 1));
    storm.writes = 0;
    match storm.run() {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads the lines any more.
        Err(_) => ExitCode::FAILURE,
    }
}

impl Storm {
    fn run(&mut self) -> std::io::Result<()> {
        let start = Instant::now();
        let (mut last, mut line_at, mut gap) = (start, start, Duration::ZERO);
        loop {
            for _ in 0..BATCH {
                self.step();
            }
            let now = Instant::now();
            gap = gap.max(now - last);
            last = now;
            if now - line_at >= LINE_EVERY {
                self.print(gap, now - start)?;
                // Printing is not a gap of the VM's.
                (line_at, last, gap) = (now, Instant::now(), Duration::ZERO);
            }
        }
    }

    fn print(&self, gap: Duration, elapsed: Duration) -> std::io::Result<()> {
        let (writes, errors, gap, elapsed) = (self.writes, self.errors, gap.as_micros(), elapsed.as_millis());
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            r#"{{"writes":{writes},"errors":{errors},"gap_us_max":{gap},"elapsed_ms":{elapsed}}}"#
        )?;
        out.flush()
    }

    fn pages(&self) -> usize {
        self.memory.len() / WORDS_A_PAGE
    }

    fn step(&mut self) {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let page = (self.seed >> 33) as usize % self.pages();
        let before = self.memory[page * WORDS_A_PAGE];
        let intact = (0..PLACES).all(|place| self.memory[at(page, place)] == word(page, place, before));
        self.errors += u64::from(!intact);
        self.write(page, before + 1);
        self.writes += 1;
    }

    fn write(&mut self, page: usize, generation: u64) {
        for place in 0..PLACES {
            self.memory[at(page, place)] = word(page, place, generation);
        }
    }
}

fn at(page: usize, place: usize) -> usize {
    page * WORDS_A_PAGE + place * (WORDS_A_PAGE / PLACES)
}

/// What belongs at a place of a page in its n-th writing; the first place holds n itself.
fn word(page: usize, place: usize, generation: u64) -> u64 {
    if place == 0 {
        return generation;
    }
    (generation ^ (page as u64) << 32)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(place as u32)
}
