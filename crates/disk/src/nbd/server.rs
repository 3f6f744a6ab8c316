//! Accepts VMMs.

use crate::disks::{Disks, Export};
use crate::nbd::{handshake, session};
use forkd_linux_sys::fds;
use forkd_protocol::disk::BLOCK_SIZE;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// The longest handshake. A client that takes longer is hung up on.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The most clients in a handshake. More than that are hung up on.
const HANDSHAKES_MAX: usize = 128;

/// Bytes of replies that the kernel keeps until a VMM reads them.
const SEND_BUFFER_BYTES: usize = 4 << 20;

/// Serves VMMs until the process ends.
pub fn serve(listener: &UnixListener, disks: &Arc<Disks>) {
    let handshakes = Arc::new(AtomicUsize::new(0));
    let (maintenance, due) = channel();
    let again = maintenance.clone();
    // Disks do without this thread: a freeze makes its files itself, and freed slots keep their space.
    let _ = std::thread::Builder::new()
        .name("maintenance".into())
        .spawn(move || maintain(&due, &again));
    for stream in fds::connections(listener) {
        if handshakes.load(Ordering::Relaxed) >= HANDSHAKES_MAX {
            continue;
        }
        let (disks, handshakes, maintenance) = (disks.clone(), Handshake::begin(&handshakes), maintenance.clone());
        // If no thread can start, the connection is closed, and the VMM stops until it has another.
        let _ = std::thread::Builder::new()
            .name("disk".into())
            .spawn(move || converse(stream, &disks, handshakes, &maintenance));
    }
}

/// A place among the clients in a handshake.
struct Handshake(Arc<AtomicUsize>);

impl Handshake {
    fn begin(count: &Arc<AtomicUsize>) -> Handshake {
        count.fetch_add(1, Ordering::Relaxed);
        Handshake(count.clone())
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn converse(stream: UnixStream, disks: &Disks, place: Handshake, maintenance: &Sender<Arc<Export>>) {
    let admit = |key: &str| {
        let export = disks.find(key).ok()?;
        let admission = export.callers.admit(&stream);
        let refused = |error: &crate::error::DiskError| forkd_log::line("nbd", &error.message);
        Some((admission.inspect_err(refused).ok()?, export))
    };
    let mut timed = Timed {
        stream: &stream,
        until: Instant::now() + HANDSHAKE_TIMEOUT,
    };
    let negotiated = handshake::negotiate(&mut timed, admit, |(_, export)| export.disk.blocks() * BLOCK_SIZE);
    drop(place);
    let served = negotiated.and_then(|chosen| {
        let Some((_admission, export)) = chosen else {
            return Ok(());
        };
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        fds::enlarge_send_buffer(&stream, SEND_BUFFER_BYTES)?;
        let idle = || {
            if export.disk.is_newly_due() {
                let _ = maintenance.send(export.clone());
            }
        };
        session::serve(&stream, &export.disk, idle)
    });
    if let Err(error) = served
        && error.kind() == io::ErrorKind::InvalidData
    {
        forkd_log::line("nbd", &format!("a connection was ended: {error}"));
    }
}

/// A stream that fails at a point in time, however slowly it is read and written.
struct Timed<'a> {
    stream: &'a UnixStream,
    until: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        (!left.is_zero())
            .then_some(Some(left))
            .ok_or(io::ErrorKind::TimedOut.into())
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Does for disks what no request has to wait for.
fn maintain(due: &Receiver<Arc<Export>>, again: &Sender<Arc<Export>>) {
    for export in due {
        export.disk.maintain();
        // Other disks come first.
        if export.disk.is_newly_due() {
            let _ = again.send(export);
        }
    }
}
