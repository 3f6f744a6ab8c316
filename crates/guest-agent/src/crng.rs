//! Finds the state of the kernel's random number generator, as addresses of the guest's physical memory.
//!
//! Every child of a snapshot starts with the same generator. The host can change the generator before a child's first
//! instruction, if it knows two addresses: that of the base key, and that of the generation number. Each processor compares
//! the number at every draw before it uses a key of its own. The agent searches once, at the end of the boot, because a
//! program of a user could manipulate a later search.
//!
//! The search assumes nothing about the layout of a kernel. An address counts only after the agent has watched two forced
//! reseeds there through `/proc/kcore`: with each, the key changes, and exactly one number grows by exactly one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde::Serialize;
use ts_rs::TS;

/// The key is the first field of `base_crng`, and the chaining value the first of `input_pool`. Both have this size.
const KEY_BYTES: usize = 32;
const COUNTER_BYTES: usize = 8;
/// Bytes of a structure in which its counter is looked for.
const WINDOW_BYTES: usize = 64;
/// A kernel that boots has not reseeded more often than this, and no pointer is smaller.
const GENERATION_MAX: u64 = 1 << 32;
/// The kernel also reseeds by itself, which spoils a proof that is under way.
const ATTEMPTS: usize = 5;
/// `input_pool` is in its initial state only until the next interrupt adds to it.
const POOL_ATTEMPTS: usize = 20;
const ABOVE: u64 = 1 << 32;

const TEXT: &str = "_text";
const BASE: &str = "base_crng";
const POOL: &str = "input_pool";
/// The vDSO's own copy of the generation, by the names that kernels since 6.11 have given it.
const VDSO: [&str; 2] = ["_vdso_rng_data", "vdso_rng_data_store"];

/// A change that the host makes in a child's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export_to = "agent-wire.ts", rename = "RefreshOp")]
pub enum Op {
    /// Mix fresh random bytes into it.
    Mix,
    /// Count up the 64-bit number there.
    Count,
    /// Count up the number of a generation page, if the page is still there.
    Page,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, TS)]
#[ts(export_to = "agent-wire.ts", rename = "RefreshEntry")]
pub struct Entry {
    /// Guest-physical address.
    pub at: u64,
    pub bytes: usize,
    pub op: Op,
}

/// The files of `/proc` that are read.
pub struct Proc {
    root: PathBuf,
}

impl Proc {
    pub fn new(root: impl Into<PathBuf>) -> Proc {
        Proc { root: root.into() }
    }

    fn open(&self, name: &str) -> Result<File, String> {
        let path = self.root.join(name);
        File::open(&path).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Finds and proves the places. `reseed` makes the kernel reseed at once.
    pub fn find(&self, reseed: &mut dyn FnMut() -> io::Result<()>) -> Result<Vec<Entry>, String> {
        let symbols = symbols(BufReader::with_capacity(1 << 16, self.open("kallsyms")?))?;
        let code = kernel_code(&self.lines("iomem")?)?;
        let kcore = Kcore::open(self.open("kcore")?)?;
        let mut search = Search { symbols, kcore, reseed };
        let text = search.symbol(TEXT)?;
        let mut entries = search.generator()?;
        entries.extend(search.pool());
        for entry in &mut entries {
            let inside = entry.at.checked_sub(text);
            let at = inside.and_then(|inside| code.checked_add(inside));
            entry.at = at.ok_or_else(|| format!("{:#x} is outside of the kernel's image", entry.at))?;
        }
        Ok(entries)
    }

    /// Bytes of memory that lie above 4 GiB. A hole for devices is below, so an address there is not its offset in memory.
    pub fn ram_above_4g(&self) -> Result<u64, String> {
        let iomem = self.lines("iomem")?;
        let ends = ranges(&iomem, "System RAM").map(|(_, end)| end);
        Ok(ends.max().map_or(0, |end| (end + 1).saturating_sub(ABOVE)))
    }

    fn lines(&self, name: &str) -> Result<Vec<String>, String> {
        let lines: io::Result<Vec<String>> = BufReader::new(self.open(name)?).lines().collect();
        lines.map_err(|error| format!("{}: {error}", self.root.join(name).display()))
    }
}

/// The addresses of the wanted symbols. A name that two symbols have belongs to neither.
fn symbols(mut kallsyms: impl BufRead) -> Result<HashMap<String, u64>, String> {
    let wanted = |name: &str| [TEXT, BASE, POOL].contains(&name) || VDSO.contains(&name);
    let mut found: HashMap<String, Option<u64>> = HashMap::new();
    let mut line = String::new();
    loop {
        line.clear();
        let read = kallsyms.read_line(&mut line);
        if read.map_err(|error| format!("/proc/kallsyms: {error}"))? == 0 {
            break;
        }
        let mut words = line.split_ascii_whitespace();
        let (address, name) = (words.next(), words.nth(1));
        // A fourth word is the module that a symbol belongs to.
        if let (Some(address), Some(name), None) = (address, name, words.next())
            && wanted(name)
        {
            let address = u64::from_str_radix(address, 16).ok();
            let once = !found.contains_key(name);
            found.insert(name.to_owned(), address.filter(|_| once));
        }
    }
    let known: HashMap<_, _> = found.into_iter().filter_map(|(name, at)| Some((name, at?))).collect();
    if known.values().all(|address| *address == 0) {
        return Err("/proc/kallsyms shows no addresses".into());
    }
    Ok(known)
}

/// The ranges of `/proc/iomem` that have this name, first and last address.
fn ranges<'a>(iomem: &'a [String], name: &'a str) -> impl Iterator<Item = (u64, u64)> + 'a {
    iomem.iter().filter_map(move |line| {
        let (range, found) = line.trim().split_once(" : ")?;
        let (start, end) = range.split_once('-')?;
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        (found == name).then_some((number(start)?, number(end)?))
    })
}

fn kernel_code(iomem: &[String]) -> Result<u64, String> {
    let first = ranges(iomem, "Kernel code").map(|(start, _)| start).next();
    first
        .filter(|start| *start != 0)
        .ok_or_else(|| "/proc/iomem does not say where the kernel's code is".into())
}

/// The kernel's memory, as an ELF core file.
struct Kcore {
    file: File,
    segments: Vec<Segment>,
}

struct Segment {
    address: u64,
    bytes: u64,
    offset: u64,
}

impl Kcore {
    fn open(file: File) -> Result<Kcore, String> {
        const PT_LOAD: u64 = 1;
        const SEGMENTS_MAX: usize = 256;
        let describe = |error: io::Error| format!("/proc/kcore: {error}");
        let mut header = [0; 64];
        file.read_exact_at(&mut header, 0).map_err(describe)?;
        if &header[..4] != b"\x7fELF" {
            return Err("/proc/kcore is no ELF file".into());
        }
        let (table, size) = (number(&header, 32, 8), number(&header, 54, 2));
        let count = (number(&header, 56, 2) as usize).min(SEGMENTS_MAX);
        let mut segments = Vec::new();
        for index in 0..count as u64 {
            let mut entry = [0; 56];
            file.read_exact_at(&mut entry, table + index * size).map_err(describe)?;
            if number(&entry, 0, 4) == PT_LOAD {
                segments.push(Segment {
                    offset: number(&entry, 8, 8),
                    address: number(&entry, 16, 8),
                    bytes: number(&entry, 40, 8),
                });
            }
        }
        Ok(Kcore { file, segments })
    }

    fn read(&self, address: u64) -> Result<[u8; WINDOW_BYTES], String> {
        let holds = |segment: &&Segment| {
            let inside = address.checked_sub(segment.address);
            inside.is_some_and(|inside| inside.saturating_add(WINDOW_BYTES as u64) <= segment.bytes)
        };
        let segment = self.segments.iter().find(holds);
        let segment = segment.ok_or_else(|| format!("/proc/kcore has no address {address:#x}"))?;
        let mut bytes = [0; WINDOW_BYTES];
        let read = self
            .file
            .read_exact_at(&mut bytes, segment.offset + address - segment.address);
        read.map_err(|error| format!("/proc/kcore: {error}"))?;
        Ok(bytes)
    }
}

fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    let digits = bytes[at..at + width].iter().rev();
    digits.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

struct Search<'a> {
    symbols: HashMap<String, u64>,
    kcore: Kcore,
    reseed: &'a mut dyn FnMut() -> io::Result<()>,
}

impl Search<'_> {
    fn symbol(&self, name: &str) -> Result<u64, String> {
        let found = self.symbols.get(name).copied();
        found.ok_or_else(|| format!("/proc/kallsyms has no single symbol {name}"))
    }

    fn reseed(&mut self) -> Result<(), String> {
        (self.reseed)().map_err(|error| format!("reseeding the generator: {error}"))
    }

    /// The base key, and each generation number.
    fn generator(&mut self) -> Result<Vec<Entry>, String> {
        let base = self.symbol(BASE)?;
        let vdso = VDSO.iter().find_map(|name| self.symbols.get(*name).copied());
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            match self.prove(base, vdso) {
                Ok(entries) => return Ok(entries),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    fn prove(&mut self, base: u64, vdso: Option<u64>) -> Result<Vec<Entry>, String> {
        let places: Vec<u64> = [Some(base), vdso].into_iter().flatten().collect();
        let mut seen = Vec::new();
        for round in 0..3 {
            if round > 0 {
                self.reseed()?;
            }
            let windows: Result<Vec<_>, String> = places.iter().map(|at| self.kcore.read(*at)).collect();
            seen.push(windows?);
        }
        let keys = [0, 1, 2].map(|round| &seen[round][0][..KEY_BYTES]);
        if keys[0] == keys[1] || keys[1] == keys[2] {
            return Err("the generator's key does not change with a reseed".into());
        }
        let mut entries = vec![Entry {
            at: base,
            bytes: KEY_BYTES,
            op: Op::Mix,
        }];
        for (index, at) in places.into_iter().enumerate() {
            let from = if index == 0 { KEY_BYTES } else { 0 };
            let offset = counter([0, 1, 2].map(|round| &seen[round][index][..]), from)?;
            entries.push(Entry {
                at: at + offset as u64,
                bytes: COUNTER_BYTES,
                op: Op::Count,
            });
        }
        Ok(entries)
    }

    /// The pool that later reseeds are drawn from. A child's own generator does not depend on it, so it is left out where it is
    /// not what is expected.
    fn pool(&mut self) -> Option<Entry> {
        let at = self.symbol(POOL).ok()?;
        for _ in 0..POOL_ATTEMPTS {
            self.reseed().ok()?;
            if self.kcore.read(at).ok()?[..KEY_BYTES] == fresh_pool() {
                return Some(Entry {
                    at,
                    bytes: KEY_BYTES,
                    op: Op::Mix,
                });
            }
        }
        None
    }
}

/// The offset of the one number that rises by one from each reading to the next.
fn counter(readings: [&[u8]; 3], from: usize) -> Result<usize, String> {
    let rises = |offset: &usize| {
        let [first, second, third] = readings.map(|bytes| number(bytes, *offset, COUNTER_BYTES));
        first < GENERATION_MAX && second == first + 1 && third == second + 1
    };
    let mut offsets = (from..WINDOW_BYTES).step_by(COUNTER_BYTES).filter(rises);
    match (offsets.next(), offsets.next()) {
        (Some(offset), None) => Ok(offset),
        (None, _) => Err("no number rises by one with each reseed".into()),
        (Some(_), Some(_)) => Err("more than one number rises with each reseed".into()),
    }
}

/// The pool's chaining value right after a reseed: BLAKE2s with a key and an output of 32 bytes.
fn fresh_pool() -> [u8; KEY_BYTES] {
    const IV: [u32; 8] = [
        0x6a09_e667,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ];
    let mut words = IV;
    words[0] ^= 0x0101_0000 | 32 << 8 | 32;
    let mut bytes = [0; KEY_BYTES];
    for (slot, word) in bytes.chunks_exact_mut(4).zip(words) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests;
