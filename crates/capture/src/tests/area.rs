//! Memory to capture, as in a sandbox.

use crate::{Source, Target};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::{self, Mapping};
use forkd_linux_sys::uffd::Range;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

pub const HUGE: usize = 2 << 20;

/// The page map's bit for a page that is write-protected by userfaultfd.
const BIT_WRITE_PROTECTED: u64 = 1 << 57;
/// The page map's bit for a page that is in memory.
const BIT_PRESENT: u64 = 1 << 63;

pub fn random(seed: &mut u64, below: u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % below
}

/// A private mapping of this process.
pub struct Area {
    memory: Mapping,
    /// Offset of the first page: a multiple of [`HUGE`], with memory that no other code uses before and after the pages.
    origin: usize,
    pub pages: u64,
    /// The content under private pages. `None`: zeros.
    below: Option<Mapping>,
    pub target: Target,
}

impl Area {
    /// An area over a sealed memfd, as in a restored sandbox.
    pub fn layered(pages: u64) -> Area {
        let len = pages as usize * PAGE_SIZE;
        let file = memfd::create(c"test-base", len as u64).expect("memfd");
        let writable = Mapping::read_write(&file, len).expect("map");
        // Every third page stays a hole: memory that is in no layer.
        (0..pages)
            .filter(|page| page % 3 != 0)
            .for_each(|page| writable.write(page as usize * PAGE_SIZE, &page.to_le_bytes()));
        drop(writable);
        memfd::seal(&file).expect("seal");
        let below = Mapping::read_only(&file, len).expect("map");
        let area = Area::over(Some(below), pages);
        // SAFETY: replaces the pages of a mapping that was just made and that no other code knows.
        unsafe { memfd::map_private_over(area.range().start, len as u64, file.as_fd(), 0) }.expect("map over");
        area
    }

    /// An area over nothing, as in a booted sandbox.
    pub fn anonymous(pages: u64) -> Area {
        Area::over(None, pages)
    }

    fn over(below: Option<Mapping>, pages: u64) -> Area {
        let len = pages as usize * PAGE_SIZE;
        let memory = Mapping::anonymous(len + 2 * HUGE).expect("map");
        let base = memory.target(0, 0) as usize;
        // Start beyond the next boundary, so that some memory always lies before the pages.
        let start = (base / HUGE + 1) * HUGE;
        let range = Range {
            start: start as u64,
            end: (start + len) as u64,
        };
        Area {
            memory,
            origin: start - base,
            pages,
            below,
            target: Target::own(range).expect("this test needs userfaultfd: run it as root"),
        }
    }

    /// Gives the kernel advice about the pages.
    pub fn advise(&self, advice: i32) {
        let len = self.pages as usize * PAGE_SIZE;
        // SAFETY: the range is mapped, and none of the advice that is given here changes its bytes.
        let advised = unsafe { libc::madvise(self.memory.target(self.origin, len).cast(), len, advice) };
        assert_eq!(advised, 0, "madvise {advice}: {}", std::io::Error::last_os_error());
    }

    pub fn source(&self) -> &Source {
        &self.target.source
    }

    pub fn range(&self) -> Range {
        self.source().range()
    }

    /// The bytes of all pages. No thread may write meanwhile.
    pub fn bytes(&self) -> &[u8] {
        self.memory.bytes(self.origin, self.pages as usize * PAGE_SIZE)
    }

    /// The first byte of a page, read without being optimised away.
    pub fn read(&self, page: u64) -> u8 {
        std::hint::black_box(self.bytes()[page as usize * PAGE_SIZE])
    }

    /// The content of a page that was never written.
    pub fn below(&self, page: u64) -> &[u8] {
        static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
        let below = self.below.as_ref();
        below.map_or(&ZEROS, |below| below.bytes(page as usize * PAGE_SIZE, PAGE_SIZE))
    }

    pub fn write(&self, page: u64, at: usize, bytes: &[u8]) {
        self.memory.write(self.origin + page as usize * PAGE_SIZE + at, bytes);
    }

    /// Writes like a guest before a branch: some pages, of which some keep their content and some become zeros. Reads
    /// some pages.
    pub fn warm(&self, seed: &mut u64) {
        for _ in 0..random(seed, self.pages) {
            let page = random(seed, self.pages);
            match random(seed, 5) {
                0 => self.write(page, 0, &[0u8; PAGE_SIZE]),
                1 => self.write(page, 0, self.below(page)),
                2 => _ = self.read(page),
                _ => self.write(page, random(seed, 4000) as usize, &random(seed, u64::MAX).to_le_bytes()),
            }
        }
    }

    /// Number of pages that are write-protected now.
    pub fn protected_pages(&self) -> u64 {
        let entries = self.entries();
        entries.iter().filter(|entry| *entry & BIT_WRITE_PROTECTED != 0).count() as u64
    }

    /// The page map's entry for each page.
    pub fn entries(&self) -> Vec<u64> {
        let mut entries = vec![0u8; self.pages as usize * 8];
        let map = File::open("/proc/self/pagemap").expect("own page map");
        map.read_exact_at(&mut entries, self.range().start / PAGE_SIZE as u64 * 8)
            .expect("its entries");
        let entries = entries.chunks_exact(8);
        entries
            .map(|entry| u64::from_ne_bytes(entry.try_into().expect("eight bytes")))
            .collect()
    }

    /// Number of pages that are neither in memory nor mere marks: swapped out, or on their way.
    pub fn away_pages(&self) -> u64 {
        let own = self.source().own_pages_protected().expect("list");
        let entries = self.entries();
        let pages = own.iter().flat_map(|range| range.start..range.end).step_by(PAGE_SIZE);
        let absent = pages.filter(|byte| entries[*byte as usize / PAGE_SIZE] & BIT_PRESENT == 0);
        absent.count() as u64
    }

    /// Bytes in huge pages now. Correct only for an area whose advice makes it a mapping by itself.
    pub fn huge_bytes(&self) -> u64 {
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("own mappings");
        let first = format!("{:x}-", self.range().start);
        let lines = smaps.lines().skip_while(|line| !line.starts_with(&first));
        let mut values = lines.filter_map(|line| line.strip_prefix("AnonHugePages:"));
        let kib = values
            .next()
            .expect("the area's mapping")
            .trim()
            .trim_end_matches(" kB");
        kib.parse::<u64>().expect("a number") << 10
    }
}
