//! A template that is still being made: the image of a fork that runs, and is being captured.

use super::{Content, Run, SourceError, Template};
use crate::session::Fork;
use forkd_capture::{EarlyImage, Sink};
use forkd_linux_sys::PAGE_SIZE;
use std::io;
use std::sync::Arc;

/// A sink whose pages can be read again.
pub trait ReadableSink: Sink + 'static {
    /// A page that was put.
    fn read(&self, page: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// A fork's memory as it was at the instant of its capture, available from that instant on. A page that has not been copied yet is
/// copied when it is asked for. If the capture is given up or fails, pages that had not been copied are lost.
pub struct EarlyTemplate<S> {
    pub(crate) parent: Arc<Fork>,
    pub(crate) image: EarlyImage,
    pub(crate) sink: Arc<S>,
    pub(crate) identity: String,
}

impl<S: ReadableSink> Template for EarlyTemplate<S> {
    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn pages(&self) -> u64 {
        self.parent
            .layout
            .regions()
            .iter()
            .map(|region| region.pages().end)
            .max()
            .unwrap_or(0)
    }

    fn run(&self, page: u64, limit: u64) -> Run<'_> {
        let limit = limit.min(self.pages() - page);
        let is_own = self.image.has(page);
        let same = (page..page + limit).take_while(|page| self.image.has(*page) == is_own);
        let pages = same.count() as u64;
        if is_own {
            let content = Content::Stored;
            return Run { pages, content };
        }
        self.parent.template.run(page, pages)
    }

    fn read(&self, page: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        if !self.image.has(page) {
            return self.parent.template.read(page, buffer);
        }
        let broken = |error: &dyn std::fmt::Display| SourceError::Broken(format!("page {page} of a fork: {error}"));
        let pages = page..page + (buffer.len() / PAGE_SIZE) as u64;
        self.image.fetch(pages.clone()).map_err(|error| broken(&error))?;
        // After this, the capture has failed if the fork freed a page while it was read.
        self.parent.wait_for_events();
        self.image.check().map_err(|error| broken(&error))?;
        for (page, buffer) in pages.zip(buffer.chunks_mut(PAGE_SIZE)) {
            self.sink.read(page, buffer).map_err(|error| broken(&error))?;
        }
        Ok(())
    }
}
