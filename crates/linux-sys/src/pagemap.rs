//! Lists the pages of another process that are private.

mod probe;

pub use probe::{probe, probe_ioctl};

use crate::memfd::{self, Mapping};
use crate::uffd::{Range, Userfaultfd};
use crate::{PAGE_SIZE, check};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const PAGEMAP_SCAN: u64 = (3 << 30) | (96 << 16) | ((b'f' as u64) << 8) | 16;

const BIT_PRESENT: u64 = 1 << 63;
const BIT_SWAPPED: u64 = 1 << 62;
const BIT_FILE: u64 = 1 << 61;
const BIT_WRITE_PROTECTED: u64 = 1 << 57;
/// Bits of an entry that hold a page's place: its frame, its place in swap space, or a marker in their place.
const PLACE_MASK: u64 = (1 << 55) - 1;

/// Bytes per scan: the kernel holds the lock of the address space for one such step.
const SCAN_STEP_BYTES: u64 = 64 << 20;
/// Entries read per call.
const ENTRIES_PER_READ: usize = 16_384;
/// Ranges nearer to each other than this are read as one.
const NEAR_BYTES: u64 = 2 << 20;

/// The pages to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anonymous pages, in memory or swapped out: pages that the process has written in its private mappings. Entries
    /// that only mark a page as write-protected look swapped out, so this is correct only while nothing is protected.
    Private,
    /// Pages with any entry: anonymous pages, mapped pages of files, marks.
    Populated,
}

impl Kind {
    /// Categories that a page must not have.
    fn unwanted(self) -> u64 {
        match self {
            Kind::Private => IS_FILE,
            Kind::Populated => 0,
        }
    }

    fn matches(self, entry: u64) -> bool {
        let populated = entry & (BIT_PRESENT | BIT_SWAPPED) != 0;
        populated && (self == Kind::Populated || entry & BIT_FILE == 0)
    }
}

/// Memory that a process uses in a range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Anonymous pages, in memory or swapped out.
    pub private_bytes: u64,
    /// Mapped pages of files.
    pub file_bytes: u64,
}

/// The page map of a process.
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

    /// The parts of `range` whose pages are of `kind`, ascending, neighbours joined. Scans in steps, between which the
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
            // The ioctl is unknown before Linux 6.7.
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
                category_inverted: kind.unwanted(),
                category_mask: kind.unwanted(),
                category_anyof_mask: IS_PRESENT | IS_SWAPPED,
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
            // `walk_end` is where a full vector stopped the kernel. After a completed walk, though, it may be half-way through: the
            // place where a buffer of the kernel's own was last emptied. The reported regions are done in any case.
            start = arguments.walk_end.max(regions.last().map_or(0, |last| last.end));
        }
        Ok(found)
    }

    fn scan_by_reading(&self, range: Range, kind: Kind) -> io::Result<Vec<Range>> {
        self.where_entry(range, |entry| kind.matches(entry))
    }

    /// The private pages of `range` as defined by [`Kind::Private`], correct even while pages are protected. Reads one
    /// entry per page, and decides by it alone.
    ///
    /// A page that the kernel moves or swaps changes its entry at any moment: present, then a note of the old or new
    /// place, then present again. Two looks, one for each form, can both miss the page. A single entry always has one
    /// of the two forms, unless it is a mark and no page at all. Entries of any other kind, such as those of pages that
    /// hardware has lost, count as private, so that reading them fails.
    pub fn private_under_protection(&self, range: Range) -> io::Result<Vec<Range>> {
        let mark = mark();
        self.where_entry(range, |entry| is_private(entry, mark))
    }

    /// Memory that the process uses in `range`. Correct even while pages are protected.
    pub fn usage(&self, range: Range) -> io::Result<Usage> {
        let mark = mark();
        let page = PAGE_SIZE as u64;
        let mut usage = Usage::default();
        // Most of a large guest is often empty. The scan skips those parts.
        for part in near(self.scan(range, Kind::Populated)?) {
            self.each_entry(part, |_, entry| {
                if is_private(entry, mark) {
                    usage.private_bytes += page;
                } else if entry & BIT_FILE != 0 {
                    usage.file_bytes += page;
                }
            })?;
        }
        Ok(usage)
    }

    /// True if there is no page at `address`, a multiple of the page size: nothing at all, or a mark. A page that hardware or swap
    /// space has lost counts as a page. Where the kernel hides marks, anything that is not present is no page.
    pub fn has_no_page(&self, address: u64) -> io::Result<bool> {
        let mark = mark();
        let page = Range {
            start: address,
            end: address + PAGE_SIZE as u64,
        };
        let mut empty = false;
        self.each_entry(page, |_, entry| {
            let is_empty = entry & (BIT_PRESENT | BIT_SWAPPED) == 0 || Some(entry & PLACE_MASK) == mark;
            empty = entry & BIT_PRESENT == 0 && (is_empty || mark.is_none());
        })?;
        Ok(empty)
    }

    /// The pages of `range` that a userfaultfd does not protect. Reads one entry per page.
    pub fn unprotected(&self, range: Range) -> io::Result<Vec<Range>> {
        self.where_entry(range, |entry| entry & BIT_WRITE_PROTECTED == 0)
    }

    fn where_entry(&self, range: Range, wanted: impl Fn(u64) -> bool) -> io::Result<Vec<Range>> {
        let mut found = Vec::new();
        self.each_entry(range, |start, entry| {
            if wanted(entry) {
                let end = start + PAGE_SIZE as u64;
                push_joined(&mut found, Range { start, end });
            }
        })?;
        Ok(found)
    }

    /// Calls `look` with the address and the entry of each page.
    fn each_entry(&self, range: Range, mut look: impl FnMut(u64, u64)) -> io::Result<()> {
        let mut buffer = vec![0u8; 8 * ENTRIES_PER_READ.min(range.len() as usize / PAGE_SIZE)];
        for step in range.steps((ENTRIES_PER_READ * PAGE_SIZE) as u64) {
            let bytes = &mut buffer[..step.len() as usize / PAGE_SIZE * 8];
            self.file
                .read_exact_at(bytes, step.start / PAGE_SIZE as u64 * 8)
                .map_err(|error| match error.kind() {
                    // The page map of an ended process is empty.
                    io::ErrorKind::UnexpectedEof => io::Error::from_raw_os_error(libc::ESRCH),
                    _ => error,
                })?;
            let entries = bytes
                .chunks_exact(8)
                .map(|entry| entry.try_into().expect("eight bytes"));
            let addresses = (step.start..step.end).step_by(PAGE_SIZE);
            addresses
                .zip(entries.map(u64::from_ne_bytes))
                .for_each(|(address, entry)| look(address, entry));
        }
        Ok(())
    }
}

/// True if an entry is that of an anonymous page, given the place that a mark has.
fn is_private(entry: u64, mark: Option<u64>) -> bool {
    let marked = entry & BIT_PRESENT == 0 && Some(entry & PLACE_MASK) == mark;
    Kind::Private.matches(entry) && !marked
}

/// The place in the entry of a page that is write-protected and was never populated. Kernels differ in it, so one is
/// made to look at. `None` if the kernel hides it, as it does from users without `CAP_SYS_ADMIN`: every entry that
/// looks swapped out then counts as a page, which makes a capture larger and never wrong.
fn mark() -> Option<u64> {
    static MARK: OnceLock<Option<u64>> = OnceLock::new();
    if let Some(mark) = MARK.get() {
        return *mark;
    }
    // An attempt that fails for lack of memory or descriptors may succeed next time.
    let mark = make_mark().ok()?;
    *MARK.get_or_init(|| mark)
}

fn make_mark() -> io::Result<Option<u64>> {
    let file = memfd::create(c"forkd-mark", PAGE_SIZE as u64)?;
    let page = Mapping::private(&file, PAGE_SIZE)?;
    let start = page.target(0, PAGE_SIZE) as u64;
    let end = start + PAGE_SIZE as u64;
    let uffd = Userfaultfd::create()?;
    uffd.register_write_protect(Range { start, end })?;
    uffd.protect(Range { start, end })?;
    let mut seen = 0;
    let map = Pagemap::open(std::process::id() as i32)?;
    map.each_entry(Range { start, end }, |_, entry| seen = entry)?;
    let place = seen & PLACE_MASK;
    // The kernel hides a place of zero: that would be the first page of the first swap space.
    Ok((seen & (BIT_PRESENT | BIT_SWAPPED) == BIT_SWAPPED && place != 0).then_some(place))
}

/// Succeeds if protected pages that were never populated can be told from swapped pages. If not, a live branch is
/// correct, but copies all memory.
pub fn probe_marks() -> io::Result<()> {
    match make_mark()? {
        Some(_) => Ok(()),
        None => Err(io::Error::other(
            "the page map does not show this user where swapped pages are, for which CAP_SYS_ADMIN is needed",
        )),
    }
}

fn push_joined(ranges: &mut Vec<Range>, next: Range) {
    match ranges.last_mut() {
        Some(last) if last.end == next.start => last.end = next.end,
        _ => ranges.push(next),
    }
}

/// Ascending ranges, with those merged that are near each other.
fn near(ranges: Vec<Range>) -> Vec<Range> {
    let mut out: Vec<Range> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start - last.end < NEAR_BYTES => last.end = range.end,
            _ => out.push(range),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_private_unless_it_is_of_a_file_of_nothing_or_a_mark() {
        let mark = 1 << 5 | 28;
        let swapped = |place: u64| BIT_SWAPPED | BIT_WRITE_PROTECTED | place;
        for (entry, private) in [
            (0, false),
            (BIT_PRESENT | 7, true),
            (BIT_PRESENT | BIT_FILE | 7, false),
            // A frame may have the same number as the place of a mark.
            (BIT_PRESENT | mark, true),
            (swapped(mark), false),
            // Swapped out, migrating, lost by the hardware, poisoned: entries that share the place or the type.
            (swapped(0), true),
            (swapped(9 << 5), true),
            (swapped(7 << 5 | 31), true),
            (swapped(2 << 5 | 28), true),
            (BIT_FILE | swapped(7 << 5 | 31), false),
        ] {
            assert_eq!(is_private(entry, Some(mark)), private, "{entry:#x}");
        }
        assert!(is_private(swapped(mark), None), "a mark that cannot be told apart");
    }

    /// More regions than the kernel's own buffer (512) or ours holds, and exactly as many as fit.
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
