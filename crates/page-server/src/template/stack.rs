//! A template that is a stack of layers.

use super::{Content, Run, Template, first_of_a_kind};
use forkd_layers::Stack;
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::maps::{FileId, Mapped};
use std::io;
use std::sync::Arc;

/// A stack of layers. All of its pages are in memory, in sealed memfds, which VMMs may map as the stack's plan says.
pub struct StackTemplate {
    stack: Arc<Stack>,
    /// The layers' files, in the order of the stack.
    files: Vec<FileId>,
    identity: String,
}

impl StackTemplate {
    /// A template of `stack`. `identity` names its layers.
    pub fn new(stack: Arc<Stack>, identity: String) -> io::Result<StackTemplate> {
        let files = stack.layers.iter().map(|layer| FileId::of(&layer.file));
        Ok(StackTemplate {
            files: files.collect::<io::Result<_>>()?,
            stack,
            identity,
        })
    }
}

impl Template for StackTemplate {
    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn pages(&self) -> u64 {
        self.stack.length / PAGE_SIZE as u64
    }

    fn run(&self, page: u64, limit: u64) -> Run<'_> {
        match self.stack.run(page, limit) {
            (_, Some(bytes)) => first_of_a_kind(bytes),
            (pages, None) => Run {
                pages,
                content: Content::Zeros,
            },
        }
    }

    fn is_mapped_by(&self, mapped: &Mapped, page: u64) -> bool {
        let size = PAGE_SIZE as u64;
        let layer = self.files.iter().position(|file| *file == mapped.file);
        mapped.private
            && layer.is_some_and(|layer| {
                self.stack
                    .shows(layer, mapped.offset / size, page, mapped.range.len() / size)
            })
    }
}
