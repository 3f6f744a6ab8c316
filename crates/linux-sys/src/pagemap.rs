//! Which pages of another process are its own.

use crate::memfd::Mapping;
use crate::uffd::Range;
use crate::{PAGE_SIZE, check};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const PAGEMAP_SCAN: u64 = (3 << 30) | (96 << 16) | ((b'f' as u64) << 8) | 16;

const BIT_PRESENT: u64 = 1 << 63;
const BIT_SWAPPED: u64 = 1 << 62;
const BIT_FILE: u64 = 1 << 61;
const BIT_WRITE_PROTECTED: u64 = 1 << 57;
/// The swap type of an entry that is no page at all but a marker: "write-protected, never populated".
const MARKER_SWAP_TYPE: u64 = 31;
const SWAP_TYPE_MASK: u64 = 31;

/// The kernel holds the lock of the address space for one such step.
const SCAN_STEP_BYTES: u64 = 64 << 20;

/// What to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anonymous pages, in memory or swapped out: what the process has written to its private mappings. Entries that only
    /// mark a page as write-protected look swapped out, so that this is right only while nothing is protected.
    Private,
    /// Anonymous pages in memory.
    PrivatePresent,
    /// Pages of files that are mapped in.
    FilePresent,
}

impl Kind {
    fn any_of(self) -> u64 {
        match self {
            Kind::Private => IS_PRESENT | IS_SWAPPED,
            Kind::PrivatePresent | Kind::FilePresent => IS_PRESENT,
        }
    }

    fn inverted(self) -> u64 {
        if self == Kind::FilePresent { 0 } else { IS_FILE }
    }

    fn matches(self, entry: u64) -> bool {
        let file = entry & BIT_FILE != 0;
        let present = entry & BIT_PRESENT != 0;
        match self {
            Kind::Private => !file && (present || entry & BIT_SWAPPED != 0),
            Kind::PrivatePresent => !file && present,
            Kind::FilePresent => file && present,
        }
    }
}

/// A process' page map.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
}

#[repr(C)]
#[derive(Default)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

impl Pagemap {
    pub fn open(pid: i32) -> io::Result<Pagemap> {
        Ok(Pagemap {
            file: File::open(format!("/proc/{pid}/pagemap"))?,
        })
    }

    /// The ranges of `range` whose pages are of `kind`, ascending, neighbours joined. Looked at in steps, between which the
    /// process can change its mappings.
    pub fn scan(&self, range: Range, kind: Kind) -> io::Result<Vec<Range>> {
        let mut found = Vec::new();
        for step in range.steps(SCAN_STEP_BYTES) {
            self.scan_step(step, kind)?
                .into_iter()
                .for_each(|next| push_joined(&mut found, next));
        }
        Ok(found)
    }

    fn scan_step(&self, range: Range, kind: Kind) -> io::Result<Vec<Range>> {
        match self.scan_by_ioctl(range, kind) {
            // Before Linux 6.7 the ioctl is unknown.
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => self.scan_by_reading(range, kind),
            result => result,
        }
    }

    fn scan_by_ioctl(&self, range: Range, kind: Kind) -> io::Result<Vec<Range>> {
        let mut found = Vec::new();
        let mut regions = vec![Region::default(); 4096];
        let mut start = range.start;
        while start < range.end {
            let mut arguments = ScanArguments {
                size: size_of::<ScanArguments>() as u64,
                start,
                end: range.end,
                vec: regions.as_mut_ptr() as u64,
                vec_len: regions.len() as u64,
                category_inverted: kind.inverted(),
                category_mask: IS_FILE,
                category_anyof_mask: kind.any_of(),
                return_mask: IS_PRESENT,
                ..ScanArguments::default()
            };
            // SAFETY: the arguments have the layout of struct pm_scan_arg and name a vector of `vec_len` regions.
            let count = check(unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, &mut arguments) }.into())?;
            for region in &regions[..count as usize] {
                push_joined(
                    &mut found,
                    Range {
                        start: region.start,
                        end: region.end,
                    },
                );
            }
            if (count as usize) < regions.len() {
                break;
            }
            // `walk_end` tells where a full vector stopped the kernel; of a walk that came to its end, though, it may be
            // where a buffer of the kernel's own was last emptied, half-way through. What was reported is done in any case.
            start = arguments.walk_end.max(regions.last().map_or(0, |last| last.end));
        }
        Ok(found)
    }

    fn scan_by_reading(&self, range: Range, kind: Kind) -> io::Result<Vec<Range>> {
        self.where_entry(range, |entry| kind.matches(entry))
    }

    /// The pages of `range` that are really swapped out, as opposed to marked. Reads an entry a page.
    pub fn swapped_out(&self, range: Range) -> io::Result<Vec<Range>> {
        self.where_entry(range, |entry| {
            entry & BIT_SWAPPED != 0 && entry & BIT_FILE == 0 && entry & SWAP_TYPE_MASK != MARKER_SWAP_TYPE
        })
    }

    /// The pages of `range` that a userfaultfd does not protect. Reads an entry a page.
    pub fn unprotected(&self, range: Range) -> io::Result<Vec<Range>> {
        self.where_entry(range, |entry| entry & BIT_WRITE_PROTECTED == 0)
    }

    fn where_entry(&self, range: Range, wanted: impl Fn(u64) -> bool) -> io::Result<Vec<Range>> {
        let mut found = Vec::new();
        let mut buffer = vec![0u8; 8 * 16_384];
        let mut address = range.start;
        while address < range.end {
            let pages = ((range.end - address) as usize / PAGE_SIZE).min(buffer.len() / 8);
            let bytes = &mut buffer[..pages * 8];
            self.file.read_exact_at(bytes, address / PAGE_SIZE as u64 * 8)?;
            for entry in bytes.chunks_exact(8) {
                let next = address + PAGE_SIZE as u64;
                if wanted(u64::from_ne_bytes(entry.try_into().expect("eight bytes"))) {
                    push_joined(
                        &mut found,
                        Range {
                            start: address,
                            end: next,
                        },
                    );
                }
                address = next;
            }
        }
        Ok(found)
    }
}

/// Whether the pages that this process has written can be listed, by `PAGEMAP_SCAN` or in its place by reading.
pub fn probe() -> io::Result<()> {
    probe_by(Pagemap::scan_step)
}

/// The same with `PAGEMAP_SCAN` alone: `ENOTTY` before Linux 6.7.
pub fn probe_ioctl() -> io::Result<()> {
    probe_by(Pagemap::scan_by_ioctl)
}

/// Lists the pages of an area of which one was written.
fn probe_by(list: impl Fn(&Pagemap, Range, Kind) -> io::Result<Vec<Range>>) -> io::Result<()> {
    let area = Mapping::anonymous(3 * PAGE_SIZE)?;
    area.write(PAGE_SIZE, &[1]);
    let start = area.target(0, area.len()) as u64;
    let page = PAGE_SIZE as u64;
    let whole = Range {
        start,
        end: start + 3 * page,
    };
    let written = Range {
        start: start + page,
        end: start + 2 * page,
    };
    // Huge pages, where they are always given out, do not fit into so little.
    let found = list(&Pagemap::open(std::process::id() as i32)?, whole, Kind::Private)?;
    if found != [written] {
        return Err(io::Error::other("the page map does not tell which pages were written"));
    }
    Ok(())
}

fn push_joined(ranges: &mut Vec<Range>, next: Range) {
    match ranges.last_mut() {
        Some(last) if last.end == next.start => last.end = next.end,
        _ => ranges.push(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More regions than the kernel's own buffer (512) holds, and than ours does; and as many as fit exactly.
    #[test]
    fn both_ways_of_scanning_find_the_same_however_many_regions_there_are() {
        let map = Pagemap::open(std::process::id() as i32).expect("own page map");
        for regions in [0, 1, 511, 512, 513, 1500, 4095, 4096, 4097, 9000] {
            let len = (regions * 2 + 700) * PAGE_SIZE;
            let area = Mapping::anonymous(len).expect("map");
            (0..regions).for_each(|i| area.write(i * 2 * PAGE_SIZE, &[1]));
            let start = area.target(0, len) as u64;
            let range = Range {
                start,
                end: start + len as u64,
            };
            let page = |i: usize| start + (i * PAGE_SIZE) as u64;
            let wanted: Vec<Range> = (0..regions)
                .map(|i| Range {
                    start: page(i * 2),
                    end: page(i * 2 + 1),
                })
                .collect();
            assert!(
                map.scan(range, Kind::Private).expect("scan") == wanted,
                "{regions} regions"
            );
            assert!(
                map.scan_by_reading(range, Kind::Private).expect("read") == wanted,
                "{regions} regions, read"
            );
        }
    }
}
