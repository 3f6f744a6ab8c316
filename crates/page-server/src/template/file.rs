//! A template that is read when it is needed.

use super::{Content, Run, SourceError, Template};
use forkd_linux_sys::PAGE_SIZE;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// A flat file of guest memory. It may be deleted meanwhile; it must not be changed.
#[derive(Debug)]
pub struct FileTemplate {
    file: File,
    identity: String,
    pages: u64,
}

impl FileTemplate {
    pub fn open(path: &Path) -> io::Result<FileTemplate> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.len() == 0 || !metadata.len().is_multiple_of(PAGE_SIZE as u64) {
            let what = "a template consists of whole pages of 4096 bytes, one at least";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
        Ok(FileTemplate {
            identity: format!(
                "file:{}:{}:{}:{seconds}.{nanoseconds}",
                metadata.dev(),
                metadata.ino(),
                metadata.len()
            ),
            pages: metadata.len() / PAGE_SIZE as u64,
            file,
        })
    }
}

impl Template for FileTemplate {
    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn pages(&self) -> u64 {
        self.pages
    }

    fn run(&self, page: u64, limit: u64) -> Run<'_> {
        Run {
            pages: limit.min(self.pages - page),
            content: Content::Stored,
        }
    }

    fn read(&self, page: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let read = self.file.read_exact_at(buffer, page * PAGE_SIZE as u64);
        read.map_err(|error| match error.kind() {
            // The file was cut off. The missing pages are not zeros.
            io::ErrorKind::UnexpectedEof => SourceError::Broken(format!("the template ends before page {page} does")),
            _ => SourceError::NotYet(format!("reading page {page} of the template: {error}")),
        })
    }
}
