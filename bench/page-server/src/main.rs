//! `forkd-page-server-bench [--mib N] [--forks N,N…] [--json]`: that many forks at once, processes of their own, each of which
//! reads a word of every page of N MiB (16 unless told). README.md says what is compared.

mod arms;
mod plain;

use arms::{ARMS, Bench, Row};
use std::process::ExitCode;

const MIB_MAX: u64 = 1024;
const FORKS_MAX: u64 = 200;

struct Options {
    mib: u64,
    forks: Vec<u64>,
    json: bool,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("forkd-page-server-bench: {reason}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forkd-page-server-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let bench = Bench::new(options.mib)?;
    if !options.json {
        println!("{}", Row::HEAD);
    }
    for forks in &options.forks {
        for order in ["in order", "scattered"] {
            for arm in ARMS {
                let row = bench.measure(arm, *forks, order)?;
                if options.json {
                    println!("{}", serde_json::to_string(&row)?);
                } else {
                    println!("{row}");
                }
            }
        }
    }
    Ok(())
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        mib: 16,
        forks: vec![1, 20, 100],
        json: false,
    };
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or_else(|| format!("{argument} needs a value behind it"))
        };
        match argument.as_str() {
            "--json" => options.json = true,
            "--mib" => options.mib = number(&value()?, MIB_MAX)?,
            "--forks" => {
                let all = value()?;
                options.forks = all
                    .split(',')
                    .map(|text| number(text, FORKS_MAX))
                    .collect::<Result<_, _>>()?;
            }
            _ => {
                return Err(format!(
                    "{argument:?} is not known; usage: forkd-page-server-bench [--mib N] [--forks N,N…] [--json]"
                ));
            }
        }
    }
    Ok(options)
}

fn number(text: &str, max: u64) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| format!("{text:?} is no number from 1 to {max}"))
}
