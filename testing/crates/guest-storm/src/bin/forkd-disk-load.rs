//! `forkd-disk-load DEVICE read|write seq|random MIB MS`: reads or writes the first MIB MiB of a block device for MS milliseconds,
//! one request at a time, past the guest's page cache: 1 MiB each in order, or 4 KiB each anywhere. With `0` for MS it goes
//! through all of them once, in order.
//!
//! Prints a line of JSON: `{"requests", "bytes", "elapsed_us"}`. What it writes is never zeros, which a disk would leave out.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The flag's value on x86-64 Linux.
const O_DIRECT: i32 = 0x4000;
const ALIGNMENT: usize = 4096;
const MIB: u64 = 1 << 20;

struct Load {
    path: String,
    writes: bool,
    random: bool,
    mib: u64,
    time: Duration,
}

fn main() -> ExitCode {
    let Some(load) = parse(&std::env::args().skip(1).collect::<Vec<_>>()) else {
        eprintln!("usage: forkd-disk-load DEVICE read|write seq|random MIB MS");
        return ExitCode::from(2);
    };
    match run(&load) {
        Ok((requests, bytes, elapsed)) => {
            let elapsed = elapsed.as_micros();
            println!("{{\"requests\":{requests},\"bytes\":{bytes},\"elapsed_us\":{elapsed}}}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("forkd-disk-load: {}: {error}", load.path);
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Option<Load> {
    let [path, op, order, mib, ms] = args else { return None };
    let one_of = |text: &str, no: &str, yes: &str| match text {
        text if text == no => Some(false),
        text => (text == yes).then_some(true),
    };
    Some(Load {
        path: path.clone(),
        writes: one_of(op, "read", "write")?,
        random: one_of(order, "seq", "random")?,
        mib: mib.parse().ok().filter(|mib| *mib > 0)?,
        time: Duration::from_millis(ms.parse().ok()?),
    })
}

/// Returns the number of requests, the bytes, and the time.
fn run(load: &Load) -> io::Result<(u64, u64, Duration)> {
    let device = File::options()
        .read(true)
        .write(load.writes)
        .custom_flags(O_DIRECT)
        .open(&load.path)?;
    let size = if load.random { ALIGNMENT as u64 } else { MIB };
    let places = load.mib * MIB / size;
    // A request past the page cache needs memory at the address of a block.
    let mut memory = vec![0xa5; size as usize + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let buffer = &mut memory[start..start + size as usize];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let begin = Instant::now();
    let mut requests = 0;
    let is_over = |requests: u64| match load.time.is_zero() {
        true => requests >= places,
        false => begin.elapsed() >= load.time,
    };
    while !is_over(requests) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let place = if load.random { state % places } else { requests % places };
        if load.writes {
            buffer[..8].copy_from_slice(&state.to_le_bytes());
            device.write_all_at(buffer, place * size)?;
        } else {
            device.read_exact_at(buffer, place * size)?;
        }
        requests += 1;
    }
    Ok((requests, requests * size, begin.elapsed()))
}
