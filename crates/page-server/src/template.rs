//! Where pages come from.

mod arriving;
mod cached;
mod early;
mod file;
mod memory;
mod refreshed;
mod stack;

pub use arriving::ArrivingTemplate;
pub use cached::Cached;
pub use early::{EarlyTemplate, ReadableSink};
pub use file::FileTemplate;
pub use memory::MemoryTemplate;
pub use refreshed::RefreshedTemplate;
pub use stack::StackTemplate;

use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::maps::Mapped;

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// The content of consecutive pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    Zeros,
    /// The pages are in memory.
    Resident(&'a [u8]),
    /// The pages must be read with [`Template::read`], which may be slow.
    Stored,
    /// The pages are on their way. The caller looks again later.
    Coming,
}

/// Pages of a kind, from the one that was asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run<'a> {
    pub pages: u64,
    pub content: Content<'a>,
}

/// Why pages could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// A later attempt may succeed.
    #[error("{0}")]
    NotYet(String),
    #[error("{0}")]
    Broken(String),
}

/// The memory that forks start from. It never changes.
pub trait Template: Send + Sync + 'static {
    /// A name that is the same for the same content, and for no other. A record belongs to one identity.
    fn identity(&self) -> String;

    /// Pages of 4 KiB.
    fn pages(&self) -> u64;

    /// Pages that have come so far, from the first on; all of them, unless some are [`Content::Coming`].
    fn arrived(&self) -> u64 {
        self.pages()
    }

    /// Why the rest will not come, if it will not.
    fn broken(&self) -> Option<String> {
        None
    }

    /// The content of `page`, and how many pages from `page` on, at most `limit`, are alike. Must not block: a VM may be waiting for the
    /// answer.
    fn run(&self, page: u64, limit: u64) -> Run<'_>;

    /// Reads whole pages, from `page` on, into all of `buffer`. Fails if any of them cannot be read.
    fn read(&self, page: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let _ = buffer;
        Err(SourceError::Broken(format!(
            "page {page} of the template is not stored anywhere"
        )))
    }

    /// True if a mapping that begins with `page` has exactly this template's pages. Forks that map such pages share them.
    fn is_mapped_by(&self, mapped: &Mapped, page: u64) -> bool {
        let _ = (mapped, page);
        false
    }
}

/// Fills `buffer` with pages of any kind.
pub(crate) fn assemble(template: &dyn Template, mut page: u64, mut buffer: &mut [u8]) -> Result<(), SourceError> {
    while !buffer.is_empty() {
        let run = template.run(page, (buffer.len() / PAGE_SIZE) as u64);
        let (piece, rest) = buffer.split_at_mut(run.pages as usize * PAGE_SIZE);
        match run.content {
            Content::Zeros => piece.fill(0),
            Content::Resident(bytes) => piece.copy_from_slice(bytes),
            Content::Stored => template.read(page, piece)?,
            Content::Coming => return Err(SourceError::NotYet(format!("page {page} has not come yet"))),
        }
        page += run.pages;
        buffer = rest;
    }
    Ok(())
}

fn is_zero(page: &[u8]) -> bool {
    page == ZEROS
}

/// Cuts `bytes`, whole pages, where pages of zeros and others meet, and returns the first piece.
pub fn first_of_a_kind(bytes: &[u8]) -> Run<'_> {
    let mut pages = bytes.chunks_exact(PAGE_SIZE).map(is_zero);
    let zeros = pages.next().unwrap_or(true);
    let same = 1 + pages.take_while(|other| *other == zeros).count();
    Run {
        pages: same as u64,
        content: if zeros {
            Content::Zeros
        } else {
            Content::Resident(&bytes[..same * PAGE_SIZE])
        },
    }
}
