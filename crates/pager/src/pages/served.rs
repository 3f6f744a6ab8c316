//! A VM whose memory is served.

use super::records::Records;
use forkd_linux_sys::fds::{self, EventFd, Wait};
use forkd_linux_sys::peer::Process;
use forkd_page_server::{CONNECT_PATIENCE, Ended, PageServer, Session, SessionOptions, Summary, Template};
use forkd_protocol::{PageStats, ServedSandbox};
use std::fs;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

pub struct Served {
    pub name: String,
    /// The pid of the VMM.
    pid: i32,
    /// The socket's file exists as long as the VM needs this process. A controller that finds the file without a pager knows
    /// that the VM is lost.
    socket: PathBuf,
    given_up: EventFd,
    session: Mutex<Option<Arc<Session>>>,
}

/// The inputs for serving a VM.
pub struct Context {
    pub server: Arc<PageServer>,
    pub template: Arc<dyn Template>,
    /// `None` if the order of this VM's requests does not help other VMs.
    pub records: Option<Arc<Records>>,
}

impl Served {
    pub fn new(name: &str, pid: i32, socket: &Path) -> io::Result<Served> {
        Ok(Served {
            name: name.into(),
            pid,
            socket: socket.into(),
            given_up: EventFd::new()?,
            session: Mutex::default(),
        })
    }

    /// Waits for the VMM, and serves it until it has ended or has all of its memory.
    pub fn run(&self, listener: &UnixListener, context: Context) -> Result<(), String> {
        let served = self.accept(listener).and_then(|stream| self.serve(stream, &context));
        // The file may have been removed with its directory.
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
            // Fill all of its memory, so that the VM no longer needs this process.
            populate: true,
            ..SessionOptions::default()
        };
        let session = context.server.serve(stream, template, options).map_err(|error| {
            // The VMM keeps its own descriptor, and would wait forever.
            let _ = peer.kill();
            error.to_string()
        })?;
        let session = Arc::new(session);
        *self.session() = Some(session.clone());
        // `give_up` may have been called before the session existed.
        if self.given_up.is_signalled() {
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

    /// Waits for the VMM's own process to connect. Closes connections of other processes.
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
                Ok(pid) => forkd_log::line(&self.name, &format!("process {pid} is not its VMM")),
                Err(error) => forkd_log::line(&self.name, &format!("who asks for its memory: {error}")),
            }
        }
    }

    /// Stops serving the VM. Kills its VMM, unless it has all of its memory.
    pub fn give_up(&self) {
        self.given_up.signal();
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

/// A summary in the form of the wire protocol.
pub fn stats_of(summary: &Summary) -> PageStats {
    PageStats {
        faults: summary.faults,
        already_there: summary.already_there,
        copied_pages: summary.copied,
        copied_bytes: summary.bytes,
        zeroed_pages: summary.zeroed,
        prefetched_pages: summary.prefetched,
        populated_pages: summary.populated,
        wait_ns_p50: summary.wait.p50_ns,
        wait_ns_p99: summary.wait.p99_ns,
        wait_ns_max: summary.wait.max_ns,
    }
}
