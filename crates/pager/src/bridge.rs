//! The guest channel's way through the pager: bytes between the VMM's end and one client, with a gate.
//!
//! While a VM is stopped its VMM still moves bytes between the channel and guest memory. If that happened between the
//! device state being saved and memory being protected, the two would be of different instants. So the bytes pass through
//! here, and a pause shuts the gate first.

use crate::error::{Result, Step};
use crate::monitor;
use forkd_linux_sys::fds::{self, Bell, Wait};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes held for a reader that is slower than its writer.
const BUFFER_BYTES: usize = 256 << 10;
/// Less than a unix socket holds: with no more than this waiting, its writer is not held up.
const ROOM_BYTES: usize = 64 << 10;
/// How long a shut gate waits for the guest to take what is on its way.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(5);

#[derive(Debug)]
struct Ends {
    /// The VMM's end; `None` while there is no client, where each has a connection of its own.
    vmm: Option<UnixStream>,
    /// Where a client's connection to the VMM is made. Otherwise there is one for good.
    dial: Option<PathBuf>,
    client: Option<UnixStream>,
    to_vmm: VecDeque<u8>,
    to_client: VecDeque<u8>,
}

/// The channel of one VM. Ends with its value.
#[derive(Debug)]
pub struct Bridge {
    gate: Arc<Mutex<Ends>>,
    stop: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
    path: String,
}

/// While it lives, no byte enters or leaves the guest through the channel.
pub struct ShutGate<'a> {
    ends: MutexGuard<'a, Ends>,
}

impl Bridge {
    /// Connects to the VMM's end at `chardev`, and serves one client at a time at `path`; a new client replaces the last.
    pub fn open(chardev: &str, path: &str) -> Result<Bridge> {
        Self::over(monitor::connect(chardev)?, path)
    }

    /// Connects to the VMM's end at `dial` anew for each client: both are hung up on when one of them is, as if they were
    /// connected to each other.
    pub fn dialling(dial: &str, path: &str) -> Result<Bridge> {
        Self::between(None, Some(dial.into()), path)
    }

    /// The same over a connection to the VMM's end.
    pub fn over(vmm: UnixStream, path: &str) -> Result<Bridge> {
        vmm.set_nonblocking(true)
            .step(|| "configuring the guest channel".into())?;
        Self::between(Some(vmm), None, path)
    }

    fn between(vmm: Option<UnixStream>, dial: Option<PathBuf>, path: &str) -> Result<Bridge> {
        let listener = listen(path).step(|| format!("listening at {path}"))?;
        let ends = Ends {
            vmm,
            dial,
            client: None,
            to_vmm: VecDeque::new(),
            to_client: VecDeque::new(),
        };
        let gate = Arc::new(Mutex::new(ends));
        let stop = Arc::new(Bell::new().step(|| "making an eventfd".into())?);
        let (theirs, bell) = (gate.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("bridge".into())
            .spawn(move || run(&theirs, &listener, &bell))
            .step(|| "starting the guest channel".into())?;
        Ok(Bridge {
            gate,
            stop,
            thread: Some(thread),
            path: path.into(),
        })
    }

    /// Shuts the gate, and waits a moment for the guest to take what was sent before.
    pub fn shut(&self) -> ShutGate<'_> {
        let mut gate = ShutGate {
            ends: self.gate.lock().expect("no panic while held"),
        };
        gate.make_room();
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        // The kernel does not tell when the other side has read; it does so within microseconds or not at all.
        while !gate.is_quiet() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(50));
        }
        gate
    }
}

impl ShutGate<'_> {
    /// Takes what the guest has sent, so that the VMM is not waiting to write.
    fn make_room(&mut self) {
        let Ends { vmm, to_client, .. } = &mut *self.ends;
        // An end or an error shows again when the gate has opened.
        let _ = vmm.as_mut().map(|vmm| pull(vmm, to_client));
    }

    /// Whether the VMM has nothing left to read and is not held up in writing, so that once stopped it moves nothing.
    pub fn is_quiet(&self) -> bool {
        let Some(vmm) = &self.ends.vmm else { return true };
        let unread = fds::unread_by_peer(vmm).unwrap_or(0);
        let waiting = fds::waiting_to_be_read(vmm).unwrap_or(0) as usize;
        unread == 0 && waiting < ROOM_BYTES
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.stop.ring();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the bridge does not panic");
        }
        // It may have gone with the sandbox's directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn listen(path: &str) -> io::Result<UnixListener> {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error);
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn run(gate: &Mutex<Ends>, listener: &UnixListener, stop: &Bell) {
    // Duplicates to wait on, so that the gate is open while nothing happens.
    let mut ends = gate.lock().expect("no panic while held").duplicates();
    loop {
        let (reads, writes) = gate.lock().expect("no panic while held").wants();
        let mut waits = vec![Wait::readable(stop), Wait::readable(listener)];
        let wants = [(reads.0, writes.0), (reads.1, writes.1)];
        for (end, (read, write)) in ends.iter().zip(wants) {
            waits.extend(end.as_ref().map(|end| Wait {
                read,
                write,
                ..Wait::readable(end)
            }));
        }
        let Ok(ready) = fds::wait(&waits, None) else { return };
        if ready[0] {
            return;
        }
        let mut locked = gate.lock().expect("no panic while held");
        if ready[1]
            && let Ok((accepted, _)) = listener.accept()
        {
            locked.welcome(accepted);
        } else if locked.exchange().is_err() {
            return;
        }
        ends = locked.duplicates();
    }
}

impl Ends {
    /// Whether to read from, and to write to, the VMM and the client.
    fn wants(&self) -> ((bool, bool), (bool, bool)) {
        let reads = (self.to_client.len() < BUFFER_BYTES, self.to_vmm.len() < BUFFER_BYTES);
        (reads, (!self.to_vmm.is_empty(), !self.to_client.is_empty()))
    }

    /// Of the VMM's end and the client's.
    fn duplicates(&self) -> [Option<UnixStream>; 2] {
        [&self.vmm, &self.client].map(|end| end.as_ref().and_then(|end| end.try_clone().ok()))
    }

    fn welcome(&mut self, client: UnixStream) {
        if client.set_nonblocking(true).is_err() {
            return;
        }
        // What was meant for the last client means nothing to the next; the channel's framing finds its feet again.
        self.to_client.clear();
        self.to_vmm.clear();
        if let Some(dial) = &self.dial {
            // Where nobody answers the client is hung up on, as it would be there.
            self.vmm = fds::connect_now(dial).ok();
        }
        self.client = self.vmm.is_some().then_some(client);
    }

    /// The end of a client that has a connection of its own.
    fn hang_up(&mut self) {
        // What the guest has said before it hung up is still its word.
        let _ = self.client.as_mut().map(|client| push(client, &mut self.to_client));
        (self.vmm, self.client) = (None, None);
        self.to_client.clear();
        self.to_vmm.clear();
    }

    /// Moves what can be moved without waiting. Fails when the VMM has closed its end.
    fn exchange(&mut self) -> io::Result<()> {
        let Some(vmm) = &mut self.vmm else { return Ok(()) };
        let mut moved = pull(vmm, &mut self.to_client).and_then(|()| push(vmm, &mut self.to_vmm));
        match &mut self.client {
            Some(client) => {
                if pull(client, &mut self.to_vmm)
                    .and_then(|()| push(client, &mut self.to_client))
                    .is_err()
                {
                    self.client = None;
                }
            }
            // The guest must not be held up because nobody listens.
            None => self.to_client.clear(),
        }
        moved = moved.and_then(|()| push(vmm, &mut self.to_vmm));
        if self.dial.is_none() {
            return moved;
        }
        if moved.is_err() || self.client.is_none() {
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
