//! A page that two processes share, one of which does not trust the other: words in it, and waiting for them to change.

use crate::memfd::{self, Mapping};
use crate::{PAGE_SIZE, check};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Time for which a wait looks again and again before it sleeps. Waking a thread takes about as long.
const SPIN_MAX: Duration = Duration::from_micros(50);

/// A shared page. Words are 32 bits wide, and are counted from zero.
#[derive(Debug)]
pub struct SharedPage {
    mapping: Mapping,
}

impl SharedPage {
    /// Creates a page of zeros, and the file to hand over.
    pub fn create() -> io::Result<(SharedPage, File)> {
        let file = memfd::create(c"forkd-shared", PAGE_SIZE as u64)?;
        let mapping = Mapping::read_write(&file, PAGE_SIZE)?;
        add_seals(&file, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW)?;
        Ok((SharedPage { mapping }, file))
    }

    /// Maps the page of a process that is not trusted. Afterwards that process can write to the page, and cannot take it
    /// away: an access never fails. Fails if `file` is no such page.
    pub fn adopt(file: OwnedFd) -> io::Result<SharedPage> {
        let file = File::from(file);
        // Only memfds that may be sealed can be sealed, and among those, huge pages have another size of block.
        add_seals(&file, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW)?;
        if file.metadata()?.len() != PAGE_SIZE as u64 || block_size(&file)? != PAGE_SIZE as i64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not one page"));
        }
        let mapping = Mapping::read_write(&file, PAGE_SIZE)?;
        // The file now takes no new writable mapping, and no hole can be punched into it.
        add_seals(&file, libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL)?;
        let page = SharedPage { mapping };
        // Populates the page, where a hole may have been.
        page.word(PAGE_SIZE / 4 - 1).fetch_add(0, Ordering::Relaxed);
        Ok(page)
    }

    /// The word at `index`. Panics beyond the page.
    pub fn word(&self, index: usize) -> &AtomicU32 {
        let target = self.mapping.target(index * 4, 4);
        // SAFETY: in range, as `target` has checked, aligned because the page is, and mapped for as long as `self` lives.
        unsafe { AtomicU32::from_ptr(target.cast()) }
    }

    /// Stores `value` in the word at `index`, and wakes the threads that wait for it in any process.
    pub fn set(&self, index: usize, value: u32) {
        let word = self.word(index);
        word.store(value, Ordering::Release);
        // SAFETY: a call without effect on memory. It fails only for an address that is not mapped.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
    }

    /// Waits until `is_met` accepts the word at `index`, and returns the word. Returns the last value after `patience`.
    pub fn wait(&self, index: usize, patience: Duration, is_met: impl Fn(u32) -> bool) -> u32 {
        let word = self.word(index);
        let start = Instant::now();
        loop {
            let value = word.load(Ordering::Acquire);
            let passed = start.elapsed();
            if is_met(value) || passed >= patience {
                return value;
            }
            if passed < SPIN_MAX {
                std::hint::spin_loop();
                continue;
            }
            let left = patience - passed;
            let left = libc::timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            // An error (the word has changed, the time is over, a signal) means to look again.
            // SAFETY: the word and the time live through the call.
            unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const left) };
        }
    }
}

fn add_seals(file: &File, seals: i32) -> io::Result<()> {
    // SAFETY: fcntl on an owned descriptor with an integer argument.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }.into()).map(drop)
}

/// The size of a page of the file's file system.
fn block_size(file: &File) -> io::Result<i64> {
    // SAFETY: all zeros is a valid statfs to be overwritten.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: fstatfs fills in a live struct.
    check(unsafe { libc::fstatfs(file.as_raw_fd(), &mut stat) }.into())?;
    Ok(stat.f_bsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (SharedPage, SharedPage, File) {
        let (theirs, file) = SharedPage::create().expect("a page");
        let ours = SharedPage::adopt(file.try_clone().expect("a duplicate").into()).expect("adopted");
        (theirs, ours, file)
    }

    #[test]
    fn a_word_that_one_side_sets_wakes_the_other() {
        let (theirs, ours, _) = pair();
        let waiting = std::thread::spawn(move || ours.wait(3, Duration::from_secs(20), |value| value == 7));
        theirs.set(3, 7);
        assert_eq!(waiting.join().expect("no panic"), 7);
    }

    #[test]
    fn a_wait_ends_with_the_last_value_when_its_time_is_over() {
        let (theirs, ours, _) = pair();
        theirs.set(0, 5);
        assert_eq!(ours.wait(0, Duration::from_millis(20), |value| value == 6), 5);
    }

    #[test]
    fn an_adopted_page_cannot_be_taken_away() {
        let (theirs, ours, file) = pair();
        memfd::punch_hole(&file, 0, PAGE_SIZE as u64).expect_err("sealed");
        file.set_len(0).expect_err("sealed");
        Mapping::read_write(&file, PAGE_SIZE).expect_err("sealed");
        theirs.set(1, 9);
        assert_eq!(ours.word(1).load(Ordering::Acquire), 9);
    }

    #[test]
    fn a_file_that_is_not_one_page_of_plain_memory_is_refused() {
        let long = memfd::create(c"forkd-test", 2 * PAGE_SIZE as u64).expect("a memfd");
        SharedPage::adopt(long.into()).expect_err("two pages");
        let short = memfd::create(c"forkd-test", 1).expect("a memfd");
        SharedPage::adopt(short.into()).expect_err("one byte");
        let read_only = File::open("/proc/self/exe").expect("this program");
        SharedPage::adopt(read_only.into()).expect_err("a program");
        let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        SharedPage::adopt(socket.into()).expect_err("a socket");
    }
}
