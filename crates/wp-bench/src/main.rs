//! `forkd-wp-bench [--region-mib N] [--writers K] [--json]`: captures N MiB (256 unless told) while K threads (2 unless
//! told) write to them as fast as they can, compares every page with a copy made at the instant, and measures the floors in
//! the same run. What each figure is stands at [`forkd_wp_bench::report::Report`].
//!
//! Ends with 1 if a page differs or a write is lost, or if something failed; with 2 if it was asked for something that it
//! cannot do.

use forkd_wp_bench::run::run;
use std::process::ExitCode;

/// The region, what lies under it, the reference copy, the capture: and in the quiet part the capture or a copy again.
const COPIES: u64 = 4;
const WRITERS_MAX: u64 = 256;

struct Options {
    region_mib: u64,
    writers: u64,
    json: bool,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("forkd-wp-bench: {reason}");
            return ExitCode::from(2);
        }
    };
    let report = match run(options.region_mib, options.writers) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("forkd-wp-bench: {error}");
            return ExitCode::FAILURE;
        }
    };
    if options.json {
        println!("{}", serde_json::to_string(&report).expect("a report is JSON"));
    } else {
        print!("{report}");
    }
    ExitCode::from(u8::from(report.violations + report.lost_writes > 0))
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        region_mib: 256,
        writers: 2,
        json: false,
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => options.json = true,
            "--region-mib" => options.region_mib = number(&argument, arguments.next(), region_mib_max()?)?,
            "--writers" => options.writers = number(&argument, arguments.next(), WRITERS_MAX)?,
            _ => {
                return Err(format!(
                    "{argument:?} is not known; usage: forkd-wp-bench [--region-mib N] [--writers K] [--json]"
                ));
            }
        }
    }
    Ok(options)
}

fn number(name: &str, value: Option<String>, max: u64) -> Result<u64, String> {
    let value = value.ok_or_else(|| format!("{name} needs a number from 1 to {max} behind it"))?;
    let parsed = value.parse().ok().filter(|number| (1..=max).contains(number));
    parsed.ok_or_else(|| format!("{name} must be a number from 1 to {max} here, and {value:?} is not"))
}

/// What fits this host's memory.
fn region_mib_max() -> Result<u64, String> {
    let info = std::fs::read_to_string("/proc/meminfo").map_err(|error| format!("reading /proc/meminfo: {error}"))?;
    let available = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.ok_or("/proc/meminfo does not say how much memory is available")? / 1024 / COPIES)
}
