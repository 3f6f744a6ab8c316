//! Shared by the experiments: facts about the host, the spread of a figure, and the document.

use serde::Serialize;
use std::error::Error;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The spread of a figure over several tries.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    /// Computes the spread of at least one figure, rounded to thousandths.
    pub fn of(figures: impl Iterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = figures.map(|figure| (figure * 1e3).round() / 1e3).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        Spread {
            min: sorted[0],
            median: sorted[sorted.len() / 2],
            max: sorted[sorted.len() - 1],
        }
    }
}

#[derive(Serialize)]
struct Document<T> {
    host: Host,
    tries: usize,
    rows: Vec<T>,
}

/// Facts about the host that a figure may depend on.
#[derive(Serialize)]
struct Host {
    kernel: String,
    processors: usize,
    processor: String,
}

impl Host {
    fn here() -> Result<Host> {
        let info = std::fs::read_to_string("/proc/cpuinfo")?;
        let model = info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Host {
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().into(),
            processors: std::thread::available_parallelism()?.get(),
            processor: model.map_or("unknown", |(_, name)| name).into(),
        })
    }
}

/// Prints what an experiment has found, each figure over so many tries.
pub fn print<T: Serialize>(tries: usize, rows: Vec<T>) -> Result<()> {
    let document = Document {
        host: Host::here()?,
        tries,
        rows,
    };
    println!("{}", serde_json::to_string_pretty(&document)?);
    Ok(())
}
