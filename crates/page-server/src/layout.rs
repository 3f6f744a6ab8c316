//! The places of a template's pages in a VMM's memory.

use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::uffd::Range;
use std::ops;

/// Bytes in a huge page.
pub const HUGE_PAGE_BYTES: u64 = 2 << 20;
const SMALL: u64 = PAGE_SIZE as u64;
/// No process has memory above it.
const ADDRESS_END: u64 = 1 << 56;

/// Why a region is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error("it has no page size")]
    NoPageSize,
    #[error("its page size is {0} and {1} bytes at the same time")]
    TwoPageSizes(u64, u64),
    #[error("a page of {0} bytes is not known: {SMALL} and {HUGE_PAGE_BYTES} are")]
    PageSize(u64),
    #[error("it is empty")]
    Empty,
    #[error("address {address:#x}, size {size} or offset {offset} is no multiple of its page size, {page_bytes} bytes")]
    Misaligned {
        address: u64,
        size: u64,
        offset: u64,
        page_bytes: u64,
    },
    #[error("{size} bytes from {address:#x} go beyond the end of an address space")]
    Overflow { address: u64, size: u64 },
    #[error("{size} bytes from offset {offset} go beyond the template, which has {template_bytes} bytes")]
    BeyondTemplate {
        offset: u64,
        size: u64,
        template_bytes: u64,
    },
    #[error("its addresses or its part of the template overlap those of another region")]
    Overlap,
}

/// Consecutive pages of the template that are consecutive in memory too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    pub memory: Range,
    /// The first page of the template, in pages of 4 KiB.
    pub page: u64,
    /// Bytes that are filled at a time.
    pub page_bytes: u64,
}

impl Region {
    /// Checks the five numbers of a handshake's region.
    pub fn new(
        address: u64,
        size: u64,
        offset: u64,
        page_bytes: u64,
        template_bytes: u64,
    ) -> Result<Region, LayoutError> {
        if page_bytes != SMALL && page_bytes != HUGE_PAGE_BYTES {
            return Err(LayoutError::PageSize(page_bytes));
        }
        if size == 0 {
            return Err(LayoutError::Empty);
        }
        if !(address | size | offset).is_multiple_of(page_bytes) {
            return Err(LayoutError::Misaligned {
                address,
                size,
                offset,
                page_bytes,
            });
        }
        let end = address.checked_add(size).filter(|end| *end <= ADDRESS_END);
        let end = end.ok_or(LayoutError::Overflow { address, size })?;
        if offset.checked_add(size).is_none_or(|end| end > template_bytes) {
            return Err(LayoutError::BeyondTemplate {
                offset,
                size,
                template_bytes,
            });
        }
        Ok(Region {
            memory: Range { start: address, end },
            page: offset / SMALL,
            page_bytes,
        })
    }

    /// The pages of the template that the region has.
    pub fn pages(&self) -> ops::Range<u64> {
        self.page..self.page + self.memory.len() / SMALL
    }

    /// Pages of 4 KiB that are filled together: 1, or 512.
    pub fn unit(&self) -> u64 {
        self.page_bytes / SMALL
    }

    pub fn is_huge(&self) -> bool {
        self.page_bytes == HUGE_PAGE_BYTES
    }

    /// The page of the template that is at `address`: the first one of its unit.
    pub fn page_at(&self, address: u64) -> u64 {
        self.page + (address - self.memory.start) / self.page_bytes * self.unit()
    }

    /// The addresses of `pages`, which the region has.
    pub fn memory_of(&self, pages: ops::Range<u64>) -> Range {
        debug_assert!(self.page <= pages.start && pages.end <= self.pages().end);
        let address = |page: u64| self.memory.start + (page - self.page) * SMALL;
        Range {
            start: address(pages.start),
            end: address(pages.end),
        }
    }
}

/// All regions of a VMM: no address and no page of the template is in two of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    regions: Vec<Region>,
}

impl Layout {
    /// Fails with the place of a region in the list that overlaps another one.
    pub fn new(regions: Vec<Region>) -> Result<Layout, (usize, LayoutError)> {
        for (index, region) in regions.iter().enumerate() {
            let overlaps = |other: &Region| {
                let memory = other.memory.start < region.memory.end && region.memory.start < other.memory.end;
                let (ours, theirs) = (region.pages(), other.pages());
                memory || (theirs.start < ours.end && ours.start < theirs.end)
            };
            if regions[..index].iter().any(overlaps) {
                return Err((index, LayoutError::Overlap));
            }
        }
        Ok(Layout { regions })
    }

    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The region that `address` is in.
    pub fn at(&self, address: u64) -> Option<&Region> {
        let is_in = |region: &&Region| (region.memory.start..region.memory.end).contains(&address);
        self.regions.iter().find(is_in)
    }

    /// The region that has `page` of the template.
    pub fn having(&self, page: u64) -> Option<&Region> {
        self.regions.iter().find(|region| region.pages().contains(&page))
    }

    /// The pages of the template that are in `range`, which need not be in any region.
    pub fn pages_in(&self, range: Range) -> impl Iterator<Item = ops::Range<u64>> + '_ {
        self.regions.iter().filter_map(move |region| {
            let start = range.start.max(region.memory.start);
            let end = range.end.min(region.memory.end);
            let page = |address: u64| region.page + (address - region.memory.start) / SMALL;
            (start < end).then(|| page(start)..page(end.next_multiple_of(SMALL)))
        })
    }
}
