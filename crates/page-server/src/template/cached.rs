//! A cache before a template that is slow to read, for all forks together.

use super::{Run, SourceError, Template, assemble};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::maps::Mapped;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// Pages that are fetched and kept together.
const BLOCK_PAGES: u64 = 64;
const BLOCK_BYTES: u64 = BLOCK_PAGES * PAGE_SIZE as u64;

/// Each block is fetched once, however many ask. Bounded; what is read once only goes first, so that a fork that reads all
/// of its memory does not drive out what the others keep coming back to.
pub struct Cached<T> {
    inner: T,
    state: Mutex<State>,
    blocks_max: usize,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Default)]
struct State {
    blocks: HashMap<u64, Arc<Block>>,
    /// Blocks in order of arrival: new ones, and ones that were asked for again while they were new.
    new: VecDeque<u64>,
    kept: VecDeque<u64>,
}

type Fetched = Result<Vec<u8>, SourceError>;

#[derive(Default)]
struct Block {
    fetched: Mutex<Option<Arc<Fetched>>>,
    arrived: Condvar,
    again: AtomicBool,
}

impl<T: Template> Cached<T> {
    /// Keeps at most `bytes`, and one block at least.
    pub fn new(inner: T, bytes: u64) -> Cached<T> {
        Cached {
            inner,
            state: Mutex::default(),
            blocks_max: (bytes / BLOCK_BYTES).max(1) as usize,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// How often a block was there, or on its way, and how often it had to be fetched.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    pub fn bytes(&self) -> u64 {
        self.state.lock().expect("no panic while held").blocks.len() as u64 * BLOCK_BYTES
    }

    fn block(&self, index: u64) -> Arc<Fetched> {
        let (block, mine) = {
            let mut state = self.state.lock().expect("no panic while held");
            match state.blocks.get(&index) {
                Some(block) => (block.clone(), false),
                None => (state.add(index, self.blocks_max), true),
            }
        };
        if mine {
            self.misses.fetch_add(1, Ordering::Relaxed);
            return self.fetch(index, &block);
        }
        self.hits.fetch_add(1, Ordering::Relaxed);
        block.again.store(true, Ordering::Relaxed);
        let fetched = block.fetched.lock().expect("no panic while held");
        let fetched = block.arrived.wait_while(fetched, |fetched| fetched.is_none());
        fetched.expect("no panic while held").clone().expect("waited for")
    }

    fn fetch(&self, index: u64, block: &Block) -> Arc<Fetched> {
        let first = index * BLOCK_PAGES;
        let pages = BLOCK_PAGES.min(self.inner.pages() - first);
        let mut bytes = vec![0u8; pages as usize * PAGE_SIZE];
        let fetched = Arc::new(assemble(&self.inner, first, &mut bytes).map(|()| bytes));
        if fetched.is_err() {
            // Callers that wait get the same error. Later callers try again.
            self.state.lock().expect("no panic while held").forget(index);
        }
        *block.fetched.lock().expect("no panic while held") = Some(fetched.clone());
        block.arrived.notify_all();
        fetched
    }
}

impl State {
    fn add(&mut self, index: u64, blocks_max: usize) -> Arc<Block> {
        while self.blocks.len() >= blocks_max {
            self.evict(blocks_max);
        }
        let block = Arc::new(Block::default());
        self.blocks.insert(index, block.clone());
        self.new.push_back(index);
        block
    }

    /// Lets go of one block, or moves one that was asked for again to those that are kept. New ones go first, as long as
    /// they are a tenth of all.
    fn evict(&mut self, blocks_max: usize) {
        let from_new = self.new.len() * 10 >= blocks_max || self.kept.is_empty();
        let queue = if from_new { &mut self.new } else { &mut self.kept };
        let index = queue.pop_front().expect("there are blocks, and each is in a queue");
        if self.blocks[&index].again.swap(false, Ordering::Relaxed) {
            self.kept.push_back(index);
        } else {
            self.blocks.remove(&index);
        }
    }

    fn forget(&mut self, index: u64) {
        self.blocks.remove(&index);
        self.new.retain(|other| *other != index);
        self.kept.retain(|other| *other != index);
    }
}

impl<T: Template> Template for Cached<T> {
    fn identity(&self) -> String {
        self.inner.identity()
    }

    fn pages(&self) -> u64 {
        self.inner.pages()
    }

    fn arrived(&self) -> u64 {
        self.inner.arrived()
    }

    fn broken(&self) -> Option<String> {
        self.inner.broken()
    }

    fn run(&self, page: u64, limit: u64) -> Run<'_> {
        self.inner.run(page, limit)
    }

    fn read(&self, mut page: u64, mut buffer: &mut [u8]) -> Result<(), SourceError> {
        while !buffer.is_empty() {
            let (index, inside) = (page / BLOCK_PAGES, (page % BLOCK_PAGES) as usize * PAGE_SIZE);
            let fetched = self.block(index);
            let bytes = (*fetched).as_ref().map_err(SourceError::clone)?;
            let bytes = &bytes[inside..];
            let (piece, rest) = buffer.split_at_mut(buffer.len().min(bytes.len()));
            piece.copy_from_slice(&bytes[..piece.len()]);
            page += (piece.len() / PAGE_SIZE) as u64;
            buffer = rest;
        }
        Ok(())
    }

    fn is_mapped_by(&self, mapped: &Mapped, page: u64) -> bool {
        self.inner.is_mapped_by(mapped, page)
    }
}
