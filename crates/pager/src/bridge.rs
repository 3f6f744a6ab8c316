//! Passes the guest channel through the pager: bytes between the VMM's end and one client, with a gate.
//!
//! While a VM is stopped, its VMM still moves bytes between the channel and guest memory. After the device state is saved and
//! before memory is protected, such bytes would make the two belong to different instants. So a pause shuts the gate first.

use crate::error::{Result, Step};
use crate::socket;
use forkd_linux_sys::fds::{self, EventFd, Wait};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most bytes held for a reader that is slower than its writer.
const BUFFER_BYTES: usize = 256 << 10;
/// Less than a unix socket holds: a writer with at most this much waiting is not blocked.
const ROOM_BYTES: usize = 64 << 10;
/// Longest wait of a shut gate for the guest to read bytes on their way.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(5);

#[derive(Debug)]
struct Ends {
    /// The VMM's end. `None` while there is no client, if each client has its own connection.
    vmm: Option<UnixStream>,
    /// The socket at which each client gets its own connection to the VMM. `None`: one connection serves all clients.
    dial: Option<PathBuf>,
    client: Option<UnixStream>,
    to_vmm: VecDeque<u8>,
    to_client: VecDeque<u8>,
    /// True if the VMM has hung up, but some of its bytes have not been read yet.
    vmm_hung_up: bool,
}

/// The channel of one VM. Dropping this closes it.
#[derive(Debug)]
pub struct Bridge {
    gate: Arc<Mutex<Ends>>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
    path: String,
}

/// A shut gate. Until this is dropped, no byte enters or leaves the guest through the channel.
pub struct ShutGate<'a> {
    ends: MutexGuard<'a, Ends>,
}

impl Bridge {
    /// Connects to the VMM's end at `chardev`, and serves one client at a time at `path`; a new client replaces the last.
    pub fn open(chardev: &str, path: &str, until: Instant) -> Result<Bridge> {
        Self::over(socket::connect(chardev, until)?, path)
    }

    /// Connects to the VMM's end at `dial` for each client. When one side hangs up, so does the other, as in a direct
    /// connection.
    pub fn dialling(dial: &str, path: &str) -> Result<Bridge> {
        Self::between(None, Some(dial.into()), path)
    }

    /// Serves clients at `path` over a connection to the VMM's end.
    pub fn over(vmm: UnixStream, path: &str) -> Result<Bridge> {
        vmm.set_nonblocking(true)
            .step(|| "configuring the guest channel".into())?;
        Self::between(Some(vmm), None, path)
    }

    fn between(vmm: Option<UnixStream>, dial: Option<PathBuf>, path: &str) -> Result<Bridge> {
        let listener = fds::listen(Path::new(path), None);
        let listener = listener.and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        let listener = listener.step(|| format!("listening at {path}"))?;
        let ends = Ends {
            vmm,
            dial,
            client: None,
            to_vmm: VecDeque::new(),
            to_client: VecDeque::new(),
            vmm_hung_up: false,
        };
        let gate = Arc::new(Mutex::new(ends));
        let stop = Arc::new(EventFd::new().step(|| "making an eventfd".into())?);
        let (theirs, stopped) = (gate.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("bridge".into())
            .spawn(move || run(&theirs, &listener, &stopped))
            .step(|| "starting the guest channel".into())?;
        Ok(Bridge {
            gate,
            stop,
            thread: Some(thread),
            path: path.into(),
        })
    }

    /// Notes that the socket for clients has been moved.
    pub fn moved_to(&mut self, path: &str) {
        self.path = path.into();
    }

    /// Shuts the gate, and waits a moment for the guest to read bytes that were sent before.
    pub fn shut(&self) -> ShutGate<'_> {
        let mut gate = ShutGate {
            ends: self.gate.lock().expect("no panic while held"),
        };
        gate.make_room();
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        // The kernel does not report when the other side has read. That takes microseconds, or never happens.
        while !gate.is_quiet() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(50));
        }
        gate
    }
}

impl ShutGate<'_> {
    /// Reads the guest's bytes, so that the VMM is not blocked in writing.
    fn make_room(&mut self) {
        let Ends { vmm, to_client, .. } = &mut *self.ends;
        // An end or an error appears again when the gate is open.
        let _ = vmm.as_mut().map(|vmm| pull(vmm, to_client));
    }

    /// True if the VMM has nothing left to read and is not blocked in writing. Once stopped, such a VMM moves no bytes.
    pub fn is_quiet(&self) -> bool {
        let Some(vmm) = &self.ends.vmm else { return true };
        let unread = fds::unread_by_peer(vmm).unwrap_or(0);
        let waiting = fds::waiting_to_be_read(vmm).unwrap_or(0) as usize;
        unread == 0 && waiting < ROOM_BYTES
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.stop.signal();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the bridge does not panic");
        }
        // The file may have been removed with the sandbox's directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Pause before the next attempt to wait for the ends, after a failure, most likely for lack of memory.
const WAIT_RETRY: Duration = Duration::from_millis(10);

fn run(gate: &Mutex<Ends>, listener: &UnixListener, stop: &EventFd) {
    let lock = || gate.lock().expect("no panic while held");
    loop {
        // Wait on duplicates, so that the gate is unlocked while nothing happens.
        let (ends, wants) = {
            let locked = lock();
            (locked.duplicates(), locked.wants())
        };
        let mut waits = vec![Wait::readable(stop), Wait::readable(listener)];
        let mut places = [None, None];
        for (index, (end, (read, write, hang_up))) in ends.iter().zip(wants).enumerate() {
            // Leave out an end without a wanted event: poll would report its hang-up again and again.
            if let Some(end) = end.as_ref().filter(|_| read || write || hang_up) {
                places[index] = Some(waits.len());
                waits.push(Wait {
                    read,
                    write,
                    ..Wait::readable(end)
                });
            }
        }
        let Ok(ready) = fds::look(&waits, None) else {
            std::thread::sleep(WAIT_RETRY);
            continue;
        };
        if ready[0].is_any() {
            return;
        }
        let hung_up = places.map(|place| place.is_some_and(|at: usize| ready[at].hung_up || ready[at].failed));
        let mut locked = lock();
        if ready[1].is_any() {
            match listener.accept() {
                Ok((accepted, _)) => locked.welcome(accepted),
                Err(_) => {
                    drop(locked);
                    std::thread::sleep(fds::ACCEPT_RETRY);
                }
            }
        } else if locked.exchange(hung_up).is_err() {
            locked.hang_up();
            return;
        }
    }
}

impl Ends {
    /// The wanted events of the VMM and the client: read, write, and hang-up.
    fn wants(&self) -> [(bool, bool, bool); 2] {
        let reads = (self.to_client.len() < BUFFER_BYTES, self.to_vmm.len() < BUFFER_BYTES);
        [
            (reads.0, !self.to_vmm.is_empty(), !self.vmm_hung_up),
            (reads.1, !self.to_client.is_empty(), true),
        ]
    }

    /// Duplicates of the VMM's end and the client's.
    fn duplicates(&self) -> [Option<UnixStream>; 2] {
        [&self.vmm, &self.client].map(|end| end.as_ref().and_then(|end| end.try_clone().ok()))
    }

    fn welcome(&mut self, client: UnixStream) {
        if client.set_nonblocking(true).is_err() {
            return;
        }
        // Bytes for the last client mean nothing to the next. The channel's framing resynchronises.
        self.to_client.clear();
        self.to_vmm.clear();
        if let Some(dial) = &self.dial {
            // If the VMM does not answer, the client's connection is closed, as it would be at the VMM's own socket.
            self.vmm = fds::connect_now(dial).ok();
            self.vmm_hung_up = false;
        }
        self.client = self.vmm.is_some().then_some(client);
    }

    /// Closes both connections.
    fn hang_up(&mut self) {
        // Deliver bytes that the guest sent before it hung up.
        let _ = self.client.as_mut().map(|client| push(client, &mut self.to_client));
        (self.vmm, self.client) = (None, None);
        self.to_client.clear();
        self.to_vmm.clear();
    }

    /// Records hang-ups. If the client hangs up while the guest reads nothing, the rest of its bytes are lost. If the
    /// VMM hangs up, the client stays until it has read all bytes of the guest.
    fn note_hang_ups(&mut self, [vmm, client]: [bool; 2]) {
        self.vmm_hung_up |= vmm;
        if client && self.to_vmm.len() >= BUFFER_BYTES {
            self.client = None;
        }
        if self.vmm_hung_up {
            self.to_vmm.clear();
        }
    }

    /// Moves all bytes that can be moved without waiting. Fails once the VMM has closed its end and all its bytes have been moved.
    fn exchange(&mut self, hung_up: [bool; 2]) -> io::Result<()> {
        self.note_hang_ups(hung_up);
        let vmm = self.vmm.as_mut();
        let pulled = vmm.map_or(Ok(()), |vmm| pull(vmm, &mut self.to_client));
        match &mut self.client {
            Some(client) => {
                if pull(client, &mut self.to_vmm)
                    .and_then(|()| push(client, &mut self.to_client))
                    .is_err()
                {
                    self.client = None;
                }
            }
            // Drop the guest's bytes while there is no client, so that the guest is not blocked.
            None => self.to_client.clear(),
        }
        let vmm = self.vmm.as_mut();
        let pushed = vmm.map_or(Ok(()), |vmm| push(vmm, &mut self.to_vmm));
        let moved = pulled.and(pushed);
        if moved.is_err() {
            self.vmm = None;
        }
        let is_over = self.vmm.is_none() && self.to_client.is_empty();
        if self.dial.is_none() {
            return if is_over {
                Err(ErrorKind::UnexpectedEof.into())
            } else {
                Ok(())
            };
        }
        if is_over || self.client.is_none() {
            self.hang_up();
        }
        Ok(())
    }
}

fn pull(from: &mut UnixStream, into: &mut VecDeque<u8>) -> io::Result<()> {
    let mut buffer = [0u8; 64 << 10];
    while into.len() < BUFFER_BYTES {
        match from.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => into.extend(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn push(into: &mut UnixStream, from: &mut VecDeque<u8>) -> io::Result<()> {
    while !from.is_empty() {
        match into.write(from.as_slices().0) {
            Ok(count) => drop(from.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
