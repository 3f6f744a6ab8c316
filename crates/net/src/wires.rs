//! The wires of this process, and the sandboxes behind them.

use crate::host::Caller;
use crate::journal::Journal;
use crate::keeper::KeeperLine;
use crate::ledger;
use crate::lines;
use crate::policy::Rules;
use crate::sandbox::{Sandbox, Seat};
use forkd_linux_sys::net::is_unix_datagram;
use forkd_protocol::net::{Bind, Fault, FaultCode, Inherited, Policy, WireInfo, WireStats};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const KEY_DIGITS: usize = 32;

/// The host's end of a wire, and what outlives this process of it.
pub struct Held {
    pub socket: OwnedFd,
    pub ledger: File,
}

struct Wire {
    socket: Arc<OwnedFd>,
    ledger: Arc<File>,
    bound: Mutex<Option<(String, Arc<Sandbox>)>>,
}

/// All wires.
pub struct Wires {
    wires: Mutex<HashMap<String, Arc<Wire>>>,
    resolvers: Arc<Vec<SocketAddr>>,
    journal: Arc<Journal>,
    keeper: Mutex<UnixStream>,
}

impl Wires {
    pub fn new(resolvers: Vec<SocketAddr>, journal: Arc<Journal>, keeper: UnixStream) -> Wires {
        Wires {
            wires: Mutex::default(),
            resolvers: Arc::new(resolvers),
            journal,
            keeper: Mutex::new(keeper),
        }
    }

    /// Takes over a wire that the keeper has held.
    pub fn adopt(&self, key: String, held: Held) {
        lock(&self.wires).insert(key, Arc::new(Wire::new(held)));
    }

    pub fn attach(&self, key: &str, socket: Option<OwnedFd>) -> Result<(), Fault> {
        if key.len() != KEY_DIGITS || !key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(fault(
                FaultCode::BadRequest,
                format!("{key:?} is not a key of {KEY_DIGITS} hexadecimal digits"),
            ));
        }
        let socket = socket.filter(|socket| is_unix_datagram(socket.as_fd()));
        let socket = socket.ok_or_else(|| fault(FaultCode::BadRequest, "attach needs a unix datagram socket"))?;
        let ledger = ledger::create().map_err(|error| io_fault("making a ledger", &error))?;
        let held = Held { socket, ledger };
        let mut wires = lock(&self.wires);
        if wires.contains_key(key) {
            return Err(fault(FaultCode::KeyInUse, format!("the key {key} has a wire already")));
        }
        self.tell_keeper(&KeeperLine::Hold { key: key.to_owned() }, Some(&held));
        wires.insert(key.to_owned(), Arc::new(Wire::new(held)));
        Ok(())
    }

    pub fn bind(&self, request: Bind) -> Result<(), Fault> {
        let Bind {
            key,
            sandbox,
            policy,
            inherited,
        } = request;
        Rules::new(policy.clone())?;
        let wire = self.wire(&key)?;
        let mut bound = lock(&wire.bound);
        if let Some((name, thread)) = &mut *bound {
            name.clone_from(&sandbox);
            thread.bind(sandbox, policy);
            return Ok(());
        }
        let seat = Seat {
            sandbox: sandbox.clone(),
            wire: wire.socket.clone(),
            ledger: wire.ledger.clone(),
            resolvers: self.resolvers.clone(),
            journal: self.journal.clone(),
        };
        let started = Sandbox::start(seat, policy, inherited.unwrap_or_default());
        let thread = started.map_err(|error| io_fault("starting a thread", &error))?;
        *bound = Some((sandbox, Arc::new(thread)));
        Ok(())
    }

    pub fn set_policy(&self, key: &str, policy: Policy) -> Result<u32, Fault> {
        Rules::new(policy.clone())?;
        self.sandbox(key)?.set_policy(policy).ok_or_else(|| unknown(key))
    }

    pub fn mark(&self, key: &str) -> Result<Inherited, Fault> {
        self.sandbox(key)?.mark().ok_or_else(|| unknown(key))
    }

    pub fn stats(&self, key: &str) -> Result<WireStats, Fault> {
        self.sandbox(key)?.stats().ok_or_else(|| unknown(key))
    }

    pub fn call(&self, key: &str, port: u16, caller: Caller) -> Result<(), (Caller, Fault)> {
        match self.sandbox(key) {
            Ok(sandbox) => {
                sandbox.call(port, caller);
                Ok(())
            }
            Err(fault) => Err((caller, fault)),
        }
    }

    pub fn close(&self, key: &str) {
        let closed = lock(&self.wires).remove(key);
        if closed.is_some() {
            self.tell_keeper(&KeeperLine::Release { key: key.to_owned() }, None);
        }
        // The thread's end is awaited here, without the lock.
        drop(closed);
    }

    pub fn list(&self) -> Vec<WireInfo> {
        let wires = lock(&self.wires);
        let name = |wire: &Wire| lock(&wire.bound).as_ref().map(|(name, _)| name.clone());
        let infos = wires.iter().map(|(key, wire)| WireInfo {
            key: key.clone(),
            sandbox: name(wire),
        });
        infos.collect()
    }

    /// Has the keeper end, too.
    pub fn end(&self) {
        self.tell_keeper(&KeeperLine::End, None);
    }

    fn tell_keeper(&self, line: &KeeperLine, held: Option<&Held>) {
        let fds: Vec<_> = held
            .iter()
            .flat_map(|held| [held.socket.as_fd(), held.ledger.as_fd()])
            .collect();
        if let Err(error) = lines::send(&lock(&self.keeper), line, &fds) {
            forkd_log::line(
                "keeper",
                &format!("it does not answer, so wires end with this process: {error}"),
            );
        }
    }

    fn wire(&self, key: &str) -> Result<Arc<Wire>, Fault> {
        lock(&self.wires).get(key).cloned().ok_or_else(|| unknown(key))
    }

    fn sandbox(&self, key: &str) -> Result<Arc<Sandbox>, Fault> {
        let wire = self.wire(key)?;
        let bound = lock(&wire.bound);
        bound
            .as_ref()
            .map(|(_, sandbox)| sandbox.clone())
            .ok_or_else(|| unknown(key))
    }
}

impl Wire {
    fn new(held: Held) -> Wire {
        Wire {
            socket: Arc::new(held.socket),
            ledger: Arc::new(held.ledger),
            bound: Mutex::default(),
        }
    }
}

/// A panic while a lock was held has left nothing half done: each holder changes one value.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unknown(key: &str) -> Fault {
    fault(FaultCode::UnknownKey, format!("no bound wire has the key {key:?}"))
}

fn io_fault(what: &str, error: &io::Error) -> Fault {
    fault(FaultCode::Io, format!("{what}: {error}"))
}

pub fn fault(code: FaultCode, message: impl Into<String>) -> Fault {
    Fault {
        code,
        message: message.into(),
    }
}
