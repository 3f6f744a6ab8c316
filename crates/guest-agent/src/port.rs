//! The virtio-serial port that the host talks to.
//!
//! Two habits of the driver shape this file. While no host end is connected a read returns 0 and poll says HUP, so a
//! level-triggered wait would spin. And tokio never forgets a HUP on a descriptor that it watches itself. So the port is
//! watched, edge-triggered, by an epoll instance of its own, and tokio watches that one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::sys;

/// The device file of the port of that name, once it is there.
pub fn look(name: &str) -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    ports.flatten().find_map(|port| {
        let found = fs::read_to_string(port.path().join("name")).ok()?;
        let device = Path::new("/dev").join(port.file_name());
        (found.trim() == name && device.exists()).then_some(device)
    })
}

/// A direction of the port: its descriptor, and the tasks that wait for it.
struct Shared {
    file: File,
    events: AsyncFd<OwnedFd>,
    /// The task reading and the task writing: an event may concern either.
    waiting: Mutex<[Option<Waker>; 2]>,
}

const READING: usize = 0;
const WRITING: usize = 1;

impl Shared {
    /// Ready when the port may have changed since it was last looked at.
    fn poll_event(&self, who: usize, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut waiting = self.waiting.lock().expect("no holder panics");
        waiting[who] = Some(cx.waker().clone());
        loop {
            // The epoll instance wakes the task that polled last, so that one must wake the other.
            let mut ready = match self.events.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(ready) => ready?,
            };
            if sys::epoll_take(self.events.get_ref())? {
                for waker in waiting.iter_mut().filter_map(Option::take) {
                    waker.wake();
                }
                return Poll::Ready(Ok(()));
            }
            ready.clear_ready();
        }
    }
}

pub struct Reader {
    shared: Arc<Shared>,
    /// A host was there at the last read: the next 0 is its hang-up, and every later 0 means "nobody yet".
    connected: bool,
}

pub struct Writer {
    shared: Arc<Shared>,
}

/// Opens the port. To be called inside the runtime.
pub fn open(path: &Path) -> io::Result<(Reader, Writer)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let edges = sys::epoll_edges_of(&file)?;
    // SAFETY: an OwnedFd is one open descriptor from here until it is dropped.
    let events = unsafe { AsyncFd::register_with_interest(edges, Interest::READABLE) }.map_err(io::Error::from)?;
    let shared = Arc::new(Shared {
        events,
        file,
        waiting: Mutex::default(),
    });
    let reader = Reader {
        shared: shared.clone(),
        connected: false,
    };
    Ok((reader, Writer { shared }))
}

impl AsyncRead for Reader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match (&self.shared.file).read(buf.initialize_unfilled()) {
                Ok(0) if self.connected => {
                    self.connected = false;
                    return Poll::Ready(Ok(()));
                }
                Ok(0) => {}
                Ok(count) => {
                    self.connected = true;
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.connected = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Poll::Ready(Err(error)),
            }
            match self.shared.poll_event(READING, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(event) => event?,
            }
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match (&self.shared.file).write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                written => return Poll::Ready(written),
            }
            match self.shared.poll_event(WRITING, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(event) => event?,
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
