//! Where pages come from.

mod arriving;
mod cached;
mod early;
mod file;
mod memory;

pub use arriving::ArrivingTemplate;
pub use cached::Cached;
pub use early::{EarlyTemplate, ReadableSink};
pub use file::FileTemplate;
pub use memory::MemoryTemplate;

use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::maps::Mapped;

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// What consecutive pages consist of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    Zeros,
    /// They are in memory.
    Resident(&'a [u8]),
    /// They must be fetched, with [`Template::read`], which may take its time.
    Stored,
    /// They are on their way, and will be something else, or have to be read. Whoever waits for them looks again.
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
    /// It is worth while to ask again.
    #[error("{0}")]
    NotYet(String),
    #[error("{0}")]
    Broken(String),
}

/// The memory that forks start from. It never changes.
pub trait Template: Send + Sync + 'static {
    /// The same for the same content, and for no other: what was recorded with one template is of no use with another.
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

    /// What `page` is, and how many pages from there on, at most `limit`, are the same. Answers at once: whoever asks may be
    /// what a VM waits for.
    fn run(&self, page: u64, limit: u64) -> Run<'_>;

    /// Reads whole pages, from `page` on. Whatever is less than all of them is an error.
    fn read(&self, page: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let _ = buffer;
        Err(SourceError::Broken(format!(
            "page {page} of the template is not stored anywhere"
        )))
    }

    /// Whether a mapping that has `page` at its start has exactly this template's pages. Forks that map them share them.
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
