//! Tests which ways of listing written pages the kernel supports.

use super::{Kind, Pagemap};
use crate::PAGE_SIZE;
use crate::memfd::Mapping;
use crate::uffd::Range;
use std::io;

/// Succeeds if the pages that this process has written can be listed, by `PAGEMAP_SCAN` or by reading the page map.
pub fn probe() -> io::Result<()> {
    probe_by(Pagemap::scan_step)
}

/// Succeeds if `PAGEMAP_SCAN` can list them. `ENOTTY` before Linux 6.7.
pub fn probe_ioctl() -> io::Result<()> {
    probe_by(Pagemap::scan_by_ioctl)
}

/// Lists the pages of an area with one written page.
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
    // The area is too small for huge pages, which some hosts always use.
    let found = list(&Pagemap::open(std::process::id() as i32)?, whole, Kind::Private)?;
    if found != [written] {
        return Err(io::Error::other("the page map does not tell which pages were written"));
    }
    Ok(())
}
