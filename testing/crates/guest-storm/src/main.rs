//! `forkd-storm MIB`: fills MIB MiB, then rewrites random pages of it for ever, checking before each write that the page
//! holds what was last written there. A page that was captured at a wrong moment, or restored wrongly, shows as an error.
//!
//! Prints a line of JSON about every 100 ms: `{"writes", "errors", "gap_us_max", "elapsed_ms"}`: pages written and errors
//! found since the start, and the longest time between two looks at the clock since the last line, which is what a stall
//! looks like from inside.
//!
//! With `--on-request` it prints such a line for each line that it reads, with `"windows"`, `[end_us, writes, gap_us]` about
//! every 10 ms since the last one, so that a gap can be told to belong to something that happened outside; nothing else
//! disturbs it in between. It ends when its input does. With `--read` it only checks what it wrote at the beginning.

mod clock;
mod memory;
mod requests;
mod ticker;

use memory::Memory;
use requests::{Request, Requests};
use std::io::{self, Write};
use std::process::ExitCode;
use ticker::Ticker;

/// Pages between two looks at the clock.
const PAGES_A_LOOK: usize = 4;

struct Options {
    mib: usize,
    on_request: bool,
    read: bool,
}

fn main() -> ExitCode {
    let Some(options) = parse(std::env::args().skip(1)) else {
        eprintln!("usage: forkd-storm MIB [--on-request] [--read]");
        return ExitCode::from(2);
    };
    let Some(ticks_per_ms) = clock::ticks_per_ms() else {
        eprintln!("forkd-storm: /proc/cpuinfo does not tell the processor's frequency");
        return ExitCode::FAILURE;
    };
    let mut memory = Memory::filled(options.mib);
    match run(&mut memory, &options, ticks_per_ms) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of the lines is gone.
        Err(_) => ExitCode::FAILURE,
    }
}

fn parse(args: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options {
        mib: 0,
        on_request: false,
        read: false,
    };
    for arg in args {
        match arg.as_str() {
            "--on-request" => options.on_request = true,
            "--read" => options.read = true,
            text => options.mib = text.parse().ok().filter(|mib| *mib > 0 && options.mib == 0)?,
        }
    }
    (options.mib > 0).then_some(options)
}

fn run(memory: &mut Memory, options: &Options, ticks_per_ms: u64) -> io::Result<()> {
    let mut requests = options.on_request.then(Requests::listen);
    let mut ticker = Ticker::start(clock::now(), ticks_per_ms);
    loop {
        for _ in 0..PAGES_A_LOOK {
            memory.step(!options.read);
        }
        ticker.look(clock::now(), memory.writes());
        let is_due = match &mut requests {
            Some(requests) => match requests.take() {
                Request::Line => true,
                Request::None => false,
                Request::End => return Ok(()),
            },
            None => ticker.is_line_due(),
        };
        if is_due {
            let line = ticker.line(memory.writes(), memory.errors(), options.on_request);
            let mut out = io::stdout().lock();
            writeln!(out, "{line}")?;
            out.flush()?;
            ticker.next_line(clock::now(), memory.writes());
        }
    }
}
