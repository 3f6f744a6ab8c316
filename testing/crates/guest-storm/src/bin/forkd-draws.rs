//! `forkd-draws SOURCE BYTES REST_US OUT`: reads BYTES bytes from the start of SOURCE again and again, and notes each reading in
//! the file OUT. Two machines that have noted the same value have drawn the same random number, or seen the same page.
//!
//! ```text
//! a note: 8 bytes  nanoseconds before the reading, since the program began, little-endian
//!         8 bytes  the same after it
//!         16 bytes the last ones that were read
//! ```
//! Two machines that come from one instant have the same notes from before it, times and all.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const VALUE_BYTES: usize = 16;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &String| text.parse::<u64>().ok();
    let [source, bytes, rest, out] = &args[..] else {
        return usage();
    };
    let (Some(bytes), Some(rest_us)) = (number(bytes), number(rest)) else {
        return usage();
    };
    if bytes < VALUE_BYTES as u64 {
        return usage();
    }
    match draw(source, bytes as usize, Duration::from_micros(rest_us), out) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("forkd-draws: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: forkd-draws SOURCE BYTES REST_US OUT");
    ExitCode::from(2)
}

fn draw(source: &str, bytes: usize, rest: Duration, out: &str) -> io::Result<std::convert::Infallible> {
    let (source, mut out) = (File::open(source)?, File::create(out)?);
    let mut buffer = vec![0; bytes];
    let start = Instant::now();
    let now = || (start.elapsed().as_nanos() as u64).to_le_bytes();
    loop {
        let before = now();
        source.read_exact_at(&mut buffer, 0)?;
        let after = now();
        out.write_all(&[&before, &after, &buffer[bytes - VALUE_BYTES..]].concat())?;
        if !rest.is_zero() {
            std::thread::sleep(rest);
        }
    }
}
