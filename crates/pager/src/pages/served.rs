//! One VM whose memory is served.

use super::records::Records;
use super::stats_of;
use crate::template::StackTemplate;
use forkd_linux_sys::fds::{self, Bell, Wait};
use forkd_linux_sys::peer::Process;
use forkd_page_server::{Ended, PageServer, Session, SessionOptions, Template};
use forkd_protocol::ServedSandbox;
use std::fs;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A VMM that was started connects within this time, or is not served.
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);

pub struct Served {
    pub name: String,
    /// Its VMM.
    pid: i32,
    /// There as long as the VM needs this process: who finds it without a pager knows that the VM is lost.
    socket: PathBuf,
    given_up: Bell,
    session: Mutex<Option<Arc<Session>>>,
}

/// With what it is served.
pub struct Context {
    pub server: Arc<PageServer>,
    pub template: Arc<StackTemplate>,
    /// None where what is asked for is of no use to others.
    pub records: Option<Arc<Records>>,
}

impl Served {
    pub fn new(name: &str, pid: i32, socket: &Path) -> io::Result<Served> {
        Ok(Served {
            name: name.into(),
            pid,
            socket: socket.into(),
            given_up: Bell::new()?,
            session: Mutex::default(),
        })
    }

    /// Waits for the VMM, and serves it until it has ended or has all of its memory.
    pub fn run(&self, listener: &UnixListener, context: Context) -> Result<(), String> {
        let served = self.accept(listener).and_then(|stream| self.serve(stream, &context));
        // It may have gone with its directory.
        let _ = fs::remove_file(&self.socket);
        served
    }

    fn serve(&self, stream: UnixStream, context: &Context) -> Result<(), String> {
        let peer = Process::peer(&stream).map_err(|error| format!("identifying the VMM: {error}"))?;
        let (template, identity) = (context.template.clone(), context.template.identity());
        let records = context.records.as_deref();
        let prefetch = records.and_then(|records| records.load(&identity, template.pages()));
        let is_first = prefetch.is_none();
        let options = SessionOptions {
            prefetch,
            // From then on it needs nobody.
            populate: true,
            ..SessionOptions::default()
        };
        let session = context.server.serve(stream, template, options).map_err(|error| {
            // It has its own descriptor, and would wait for ever.
            let _ = peer.kill();
            error.to_string()
        })?;
        let session = Arc::new(session);
        *self.session() = Some(session.clone());
        // It may have been given up before there was a session to tell.
        if self.given_up.is_rung() {
            session.give_up();
        }
        let ended = session.wait_until_ended();
        if let Some(records) = records.filter(|_| is_first) {
            records.save(&session.record(), &identity);
        }
        match ended {
            Ended::Failed(error) => Err(error.to_string()),
            Ended::VmmGone | Ended::Detached => Ok(()),
        }
    }

    /// Whoever else connects is hung up on.
    fn accept(&self, listener: &UnixListener) -> Result<UnixStream, String> {
        let until = Instant::now() + CONNECT_PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let waits = [Wait::readable(listener), Wait::readable(&self.given_up)];
            let ready = fds::wait(&waits, Some(left)).map_err(|error| format!("waiting: {error}"))?;
            if ready[1] {
                return Err("it was given up before its VMM had connected".into());
            }
            if !ready[0] {
                return Err(format!("its VMM has not connected within {CONNECT_PATIENCE:?}"));
            }
            let (stream, _) = listener.accept().map_err(|error| format!("accepting: {error}"))?;
            match fds::peer_pid(&stream) {
                Ok(pid) if pid == self.pid => return Ok(stream),
                Ok(pid) => eprintln!("forkd-pager: process {pid} is not the VMM of {}", self.name),
                Err(error) => eprintln!("forkd-pager: who asks for the memory of {}: {error}", self.name),
            }
        }
    }

    /// Serves it no longer. Its VMM is ended, unless it needs no pages any more.
    pub fn give_up(&self) {
        self.given_up.ring();
        if let Some(session) = &*self.session() {
            session.give_up();
        }
    }

    pub fn tell(&self) -> ServedSandbox {
        let session = self.session().clone();
        ServedSandbox {
            sandbox: self.name.clone(),
            pid: self.pid,
            connected: session.is_some(),
            stats: stats_of(&session.map(|session| session.stats()).unwrap_or_default()),
        }
    }

    fn session(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        self.session.lock().expect("no panic while held")
    }
}
