//! The generation page: a file of one page. Its number is different in every child, from the first instruction on.
//!
//! The host reseeds the kernel's generator before a child runs. A generator in the memory of a program is not reseeded,
//! unless the program reads this page before it draws: a changed number means "this is another machine; seed again".
//!
//! ```text
//! bytes 0..16   magic "FORKD GENERATION"
//! bytes 16..24  the number, little-endian; it changes with each fork and is never 0
//! the rest      zeros
//! ```
//! The host increments the number in the child's memory, at the address that the agent has reported once. So the page must
//! not move: it is locked, and the kernel is configured to leave locked pages where they are.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::crng::{Entry, Op};
use crate::sys::{self, PAGE_BYTES, Words};

/// The path under which programs find the page.
pub const PATH: &str = "/dev/shm/forkd-generation";
pub const MAGIC: &[u8; 16] = b"FORKD GENERATION";
/// The magic and the number.
const HEAD_BYTES: usize = 24;
const NUMBER: usize = 2;

pub struct GenerationPage {
    words: &'static Words,
    /// The number when this machine last took on an identity.
    noted: AtomicU64,
}

impl GenerationPage {
    /// Makes the page, which everybody may read and only root may write.
    pub fn create(path: &Path) -> io::Result<GenerationPage> {
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).mode(0o444).open(path)?;
        file.set_len(PAGE_BYTES as u64)?;
        file.write_all_at(MAGIC, 0)?;
        file.write_all_at(&1u64.to_le_bytes(), MAGIC.len() as u64)?;
        let words = sys::map_locked_page(&file)?;
        Ok(GenerationPage {
            words,
            noted: AtomicU64::new(1),
        })
    }

    /// The page's place in guest-physical memory, once the page cannot move any more.
    pub fn place(&self) -> io::Result<Entry> {
        const PRESENT: u64 = 1 << 63;
        const FRAME: u64 = (1 << 55) - 1;
        stay_where_locked()?;
        let page = self.words.as_ptr() as u64 / PAGE_BYTES as u64;
        let mut entry = [0; 8];
        File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, page * 8)?;
        let entry = u64::from_le_bytes(entry);
        if entry & PRESENT == 0 || entry & FRAME == 0 {
            return Err(io::Error::other("/proc/self/pagemap does not show where it is"));
        }
        Ok(Entry {
            at: (entry & FRAME) * PAGE_BYTES as u64,
            bytes: HEAD_BYTES,
            op: Op::Page,
        })
    }

    pub fn number(&self) -> u64 {
        self.words[NUMBER].load(Ordering::Acquire)
    }

    /// Counts up where the host has not. It is written either way: a VMM that tracks writes then knows of the host's.
    pub fn take_on_identity(&self, is_new: bool) {
        let number = self.number();
        let host_counted = number != self.noted.load(Ordering::Relaxed);
        let next = if host_counted || !is_new {
            number
        } else {
            number.wrapping_add(1).max(1)
        };
        self.words[NUMBER].store(next, Ordering::Release);
        self.noted.store(next, Ordering::Relaxed);
    }
}

/// Compaction may move locked pages, unless it is told not to. A kernel without compaction has no such switch.
fn stay_where_locked() -> io::Result<()> {
    match fs::write("/proc/sys/vm/compact_unevictable_allowed", "0") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(name: &str) -> GenerationPage {
        let path = std::env::temp_dir().join(format!("forkd-generation-{name}-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let page = GenerationPage::create(&path).expect("a page");
        let bytes = fs::read(&path).expect("readable");
        assert_eq!((&bytes[..16], bytes.len()), (&MAGIC[..], PAGE_BYTES));
        fs::remove_file(&path).expect("removed");
        page
    }

    #[test]
    fn a_new_identity_counts_where_the_host_has_not() {
        let page = page("agent");
        page.take_on_identity(true);
        assert_eq!(page.number(), 2);
        page.take_on_identity(false);
        assert_eq!(page.number(), 2, "a retry is no new machine");
    }

    #[test]
    fn a_new_identity_keeps_the_number_that_the_host_has_given() {
        let page = page("host");
        page.words[NUMBER].store(2, Ordering::Release);
        page.take_on_identity(true);
        assert_eq!(page.number(), 2);
        page.words[NUMBER].store(u64::MAX, Ordering::Release);
        page.take_on_identity(true);
        page.take_on_identity(true);
        assert_eq!(page.number(), 1, "never 0");
    }
}
