//! The events that a userfaultfd reports.

use super::{Range, Userfaultfd, read};
use crate::PAGE_SIZE;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

const PAGEFAULT: u8 = 0x12;
const FORK: u8 = 0x13;
const REMAP: u8 = 0x14;
const REMOVE: u8 = 0x15;
const UNMAP: u8 = 0x16;
const FLAG_WRITE: u64 = 1 << 0;
const FLAG_WP: u64 = 1 << 1;
const FLAG_MINOR: u64 = 1 << 2;

/// Most messages per read.
const MESSAGES: usize = 64;

/// An event in the address space. All but a fault have already happened when they are read.
#[derive(Debug)]
pub enum Event {
    /// A thread waits for the page at `address`, which is the start of a page of 4 KiB.
    Fault {
        address: u64,
        write: bool,
        /// True if the file under the mapping has the page.
        minor: bool,
        /// True if the page is present and protected.
        protected: bool,
    },
    /// The memory was freed, and reads like new memory.
    Remove(Range),
    /// Nothing is mapped there any more.
    Unmap(Range),
    /// The mapping at `from` has moved to `to`.
    Remap { from: u64, to: Range },
    /// The process has forked. This is the userfaultfd of the copy.
    Fork(OwnedFd),
    /// An event that this library does not know.
    Unknown(u8),
}

/// `struct uffd_msg`: the kind, then a union.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Message {
    kind: u8,
    reserved: [u8; 7],
    words: [u64; 3],
}

impl Userfaultfd {
    /// Appends new events to `events`, in order. Returns their number, zero if there are none.
    ///
    /// A thread that frees memory waits until that has been read here. Until then no page of the address space can be
    /// filled.
    pub fn read_events(&self, events: &mut Vec<Event>) -> io::Result<usize> {
        self.read_messages(MESSAGES, |message| events.push(event(message)))
    }

    /// Appends the page addresses of at most `limit` waiting faults to `faults`. Returns their number, zero if none waits.
    pub fn read_faults(&self, faults: &mut Vec<u64>, limit: usize) -> io::Result<usize> {
        let before = faults.len();
        self.read_messages(limit, |message| {
            // Other events do not matter here. A descriptor that comes with one is closed.
            if let Event::Fault { address, .. } = event(message) {
                faults.push(address);
            }
        })?;
        Ok(faults.len() - before)
    }

    fn read_messages(&self, limit: usize, mut each: impl FnMut(&Message)) -> io::Result<usize> {
        let mut buffer = [Message::default(); MESSAGES];
        let room = limit.min(buffer.len()) * size_of::<Message>();
        // SAFETY: the buffer holds at least `room` bytes of plain old data, of the layout of struct uffd_msg.
        let got = match unsafe { read::read_now(self.fd.as_fd(), buffer.as_mut_ptr().cast(), room) } {
            Ok(got) => got / size_of::<Message>(),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        buffer[..got].iter().for_each(&mut each);
        Ok(got)
    }
}

fn page_of(address: u64) -> u64 {
    address & !(PAGE_SIZE as u64 - 1)
}

fn event(message: &Message) -> Event {
    let [first, second, third] = message.words;
    match message.kind {
        PAGEFAULT => Event::Fault {
            address: page_of(second),
            write: first & FLAG_WRITE != 0,
            minor: first & FLAG_MINOR != 0,
            protected: first & FLAG_WP != 0,
        },
        REMOVE => Event::Remove(Range {
            start: first,
            end: second,
        }),
        UNMAP => Event::Unmap(Range {
            start: first,
            end: second,
        }),
        REMAP => Event::Remap {
            from: first,
            to: Range {
                start: second,
                end: second + third,
            },
        },
        // SAFETY: the kernel made the descriptor for this message, and no other code knows it.
        FORK => Event::Fork(unsafe { OwnedFd::from_raw_fd(first as i32) }),
        kind => Event::Unknown(kind),
    }
}
