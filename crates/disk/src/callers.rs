//! The process that may use a disk.

use crate::error::{DiskError, Result, Step};
use forkd_linux_sys::fds::{self, Wait};
use forkd_linux_sys::peer::Process;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// The most connections to one disk. A VMM that connects again has two for a moment.
const CONNECTIONS_MAX: usize = 4;

#[derive(Debug, Default)]
struct Admitted {
    expected: Option<i32>,
    process: Option<Process>,
    connections: Vec<(u64, UnixStream)>,
    serial: u64,
}

/// The callers of one disk: connections of one process.
#[derive(Debug, Default)]
pub struct Callers {
    admitted: Mutex<Admitted>,
}

/// The right to use a disk. It ends when it is dropped.
#[derive(Debug)]
pub struct Admission {
    callers: Arc<Callers>,
    serial: u64,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.callers
            .lock()
            .connections
            .retain(|(serial, _)| *serial != self.serial);
    }
}

impl Callers {
    /// Sets which process may call from now on; `None`: the first that does. Connections of another process are ended.
    pub fn expect(&self, pid: Option<i32>) {
        let mut admitted = self.lock();
        if pid.is_none()
            || admitted
                .process
                .as_ref()
                .is_some_and(|process| Some(process.pid) != pid)
        {
            admitted.process = None;
            end(&admitted.connections);
        }
        admitted.expected = pid;
    }

    /// Admits a connection, if it is one of the process that may call.
    pub fn admit(self: &Arc<Callers>, stream: &UnixStream) -> Result<Admission> {
        let process = Process::peer(stream).step(|| "asking who calls".into())?;
        let mut admitted = self.lock();
        let is_other = admitted.expected.is_some_and(|pid| pid != process.pid)
            || admitted
                .process
                .as_ref()
                .is_some_and(|known| known.pid != process.pid || has_ended(known));
        if is_other {
            return Err(DiskError::bad_request(format!(
                "process {} is not the disk's VMM",
                process.pid
            )));
        }
        if admitted.connections.len() >= CONNECTIONS_MAX {
            return Err(DiskError::bad_request(format!(
                "the disk has {CONNECTIONS_MAX} connections already"
            )));
        }
        let stream = stream.try_clone().step(|| "duplicating a socket".into())?;
        admitted.process.get_or_insert(process);
        admitted.serial += 1;
        let serial = admitted.serial;
        admitted.connections.push((serial, stream));
        Ok(Admission {
            callers: self.clone(),
            serial,
        })
    }

    /// Ends all connections.
    pub fn end(&self) {
        end(&self.lock().connections);
    }

    /// The process that has called, and the number of its connections.
    pub fn known(&self) -> (Option<i32>, u64) {
        let admitted = self.lock();
        let pid = admitted.process.as_ref().map(|process| process.pid);
        (pid.or(admitted.expected), admitted.connections.len() as u64)
    }

    fn lock(&self) -> MutexGuard<'_, Admitted> {
        self.admitted.lock().expect("no panic while held")
    }
}

fn end(connections: &[(u64, UnixStream)]) {
    for (_, stream) in connections {
        // Fails only if the other side has hung up.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn has_ended(process: &Process) -> bool {
    fds::wait(&[Wait::readable(process)], Some(Duration::ZERO)).is_ok_and(|ready| ready[0])
}
