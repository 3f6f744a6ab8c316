//! `forkd-wp-bench [--region-mib N] [--writers K] [--json]`: captures N MiB (256 unless told) while K threads (2 unless
//! told) write to them as fast as they can, compares every page with a copy made at the instant, and measures the floors in
//! the same run. What each figure is stands at [`forkd_wp_bench::report::Report`].
//!
//! `forkd-wp-bench hostile [--captures N] [--region-mib N] [--writers K] [--json]`: N captures (1,000 unless told) of small
//! regions (40 MiB) while the kernel compacts, swaps, collapses and reclaims memory, as [`forkd_wp_bench::hostile`] has it.
//!
//! Ends with 1 if a page differs or a write is lost, or if something failed; with 2 if it was asked for something that it
//! cannot do.

use forkd_wp_bench::hostile;
use forkd_wp_bench::report::Report;
use forkd_wp_bench::run::run;
use serde::Serialize;
use std::error::Error;
use std::process::ExitCode;

/// The region, what lies under it, the reference copy, the capture: and in the quiet part the capture or a copy again.
const COPIES: u64 = 4;
const WRITERS_MAX: u64 = 256;

const CAPTURES_MAX: u64 = 100_000_000;
const HOSTILE_MIB: u64 = 40;
const USAGE: &str = "forkd-wp-bench [hostile [--captures N]] [--region-mib N] [--writers K] [--json]";

struct Options {
    /// How many captures under pressure, if that is what is asked for.
    hostile: Option<u64>,
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
    match options.hostile {
        Some(captures) => run_hostile(captures, &options),
        None => run_once(&options),
    }
}

fn run_hostile(captures: u64, options: &Options) -> ExitCode {
    let setting = hostile::Setting {
        captures,
        region_mib: options.region_mib,
        writers: options.writers,
    };
    let wrong = |report: &hostile::Report| report.differing_pages + report.lost_writes;
    finish(hostile::run(setting), options, wrong, |report| println!("{report:#?}"))
}

fn run_once(options: &Options) -> ExitCode {
    let wrong = |report: &Report| report.violations + report.lost_writes;
    finish(run(options.region_mib, options.writers), options, wrong, |report| {
        print!("{report}")
    })
}

/// Prints a report, and ends with 1 if it failed or found a wrong page or a lost write.
fn finish<R: Serialize>(
    outcome: Result<R, Box<dyn Error>>,
    options: &Options,
    wrong: impl Fn(&R) -> u64,
    print: impl Fn(&R),
) -> ExitCode {
    let report = match outcome {
        Ok(report) => report,
        Err(error) => {
            eprintln!("forkd-wp-bench: {error}");
            return ExitCode::FAILURE;
        }
    };
    if options.json {
        println!("{}", serde_json::to_string(&report).expect("a report is JSON"));
    } else {
        print(&report);
    }
    ExitCode::from(u8::from(wrong(&report) > 0))
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut arguments = arguments.peekable();
    let hostile = arguments.next_if(|argument| argument == "hostile").map(|_| 1000);
    let mut options = Options {
        hostile,
        region_mib: if hostile.is_some() { HOSTILE_MIB } else { 256 },
        writers: 2,
        json: false,
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => options.json = true,
            "--captures" if hostile.is_some() => {
                options.hostile = Some(number(&argument, arguments.next(), CAPTURES_MAX)?);
            }
            "--region-mib" => options.region_mib = number(&argument, arguments.next(), region_mib_max()?)?,
            "--writers" => options.writers = number(&argument, arguments.next(), WRITERS_MAX)?,
            _ => {
                return Err(format!("{argument:?} is not known; usage: {USAGE}"));
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

/// The largest region that fits into this host's memory.
fn region_mib_max() -> Result<u64, String> {
    let info = std::fs::read_to_string("/proc/meminfo").map_err(|error| format!("reading /proc/meminfo: {error}"))?;
    let available = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.ok_or("/proc/meminfo does not say how much memory is available")? / 1024 / COPIES)
}
