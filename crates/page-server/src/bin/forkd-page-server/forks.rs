//! The forks that are served: each has a socket of its own.

use crate::options::Options;
use forkd_linux_sys::fds::{self, EventFd, Wait};
use forkd_page_server::{
    CONNECT_PATIENCE, Ended, PageServer, Record, Session, SessionOptions, Summary, Template, refreshed,
};
use forkd_protocol::Refresh;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

const NAME_LENGTH_MAX: usize = 64;
/// The name of the control socket, which no fork may have.
const CONTROL: &str = "control";

/// The stage of a fork.
enum State {
    /// The VMM has not connected yet, or not completed its handshake.
    Awaited,
    Served(Arc<Session>),
}

pub struct Forks {
    server: PageServer,
    template: Arc<dyn Template>,
    dir: PathBuf,
    forks_max: usize,
    /// The file that keeps the order in which a fork asks for pages.
    record: Option<PathBuf>,
    /// The recorded order, once it is known.
    prefetch: Mutex<Option<Record>>,
    states: Mutex<HashMap<String, State>>,
    /// Signalled once no new forks are taken.
    pub draining: EventFd,
}

/// One fork in the reply to `stats`.
#[derive(Serialize)]
pub struct ForkReport {
    name: String,
    pid: Option<i32>,
    shared: bool,
    stats: Option<Summary>,
}

impl Forks {
    pub fn new(
        server: PageServer,
        template: Arc<dyn Template>,
        options: &Options,
        prefetch: Option<Record>,
    ) -> io::Result<Forks> {
        Ok(Forks {
            server,
            template,
            dir: options.socket_dir.clone(),
            forks_max: options.forks,
            record: options.record.clone(),
            prefetch: Mutex::new(prefetch),
            states: Mutex::default(),
            draining: EventFd::new()?,
        })
    }

    pub fn server(&self) -> &PageServer {
        &self.server
    }

    /// Makes a socket for one VMM, which is served when it connects. Its memory is the template with `refreshes` applied.
    pub fn make(self: &Arc<Forks>, name: &str, populate: bool, refreshes: &[Refresh]) -> Result<PathBuf, String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > NAME_LENGTH_MAX || !name.bytes().all(is_plain) || name == CONTROL {
            return Err(format!(
                "{name:?} is no name: 1 to {NAME_LENGTH_MAX} letters, digits, - and _, not {CONTROL}"
            ));
        }
        if self.is_draining() {
            return Err("no new forks are taken: the server is draining".into());
        }
        let template = refreshed(self.template.clone(), refreshes).map_err(|error| error.to_string())?;
        let path = self.dir.join(format!("{name}.sock"));
        let mut states = self.lock();
        if states.contains_key(name) {
            return Err(format!("fork {name} is there already"));
        }
        if states.len() >= self.forks_max {
            return Err(format!(
                "{} forks are there already, which is the limit",
                self.forks_max
            ));
        }
        let listener =
            fds::listen(&path, Some(0o600)).map_err(|error| format!("listening at {}: {error}", path.display()))?;
        let (theirs, their_name, their_path) = (self.clone(), name.to_owned(), path.clone());
        let spawned = std::thread::Builder::new().name("fork".into()).spawn(move || {
            if let Err(reason) = theirs.serve(&listener, &their_path, &their_name, template, populate) {
                forkd_log::line(&format!("fork {their_name}"), &reason);
            }
            theirs.lock().remove(&their_name);
        });
        spawned.map_err(|error| format!("starting a thread: {error}"))?;
        states.insert(name.into(), State::Awaited);
        Ok(path)
    }

    fn serve(
        &self,
        listener: &UnixListener,
        path: &Path,
        name: &str,
        template: Arc<dyn Template>,
        populate: bool,
    ) -> Result<(), String> {
        let ready = fds::wait(
            &[Wait::readable(listener), Wait::readable(&self.draining)],
            Some(CONNECT_PATIENCE),
        );
        let stream = match ready.map_err(|error| format!("waiting: {error}"))?[..] {
            [true, _] => listener
                .accept()
                .map(|(stream, _)| stream)
                .map_err(|error| error.to_string()),
            [_, true] => Err("the server drains, and nobody had connected yet".into()),
            _ => Err(format!("nobody has connected within {CONNECT_PATIENCE:?}")),
        };
        let _ = std::fs::remove_file(path);
        let options = SessionOptions {
            prefetch: self.prefetch.lock().expect("no panic while held").clone(),
            populate,
            ..SessionOptions::default()
        };
        let served = self.server.serve(stream?, template, options);
        let session = served.map_err(|error| error.to_string())?;
        let session = Arc::new(session);
        self.lock().insert(name.into(), State::Served(session.clone()));
        let ended = session.wait_until_ended();
        // The record is kept before the fork leaves the list: a caller that sees the fork gone finds the record.
        self.keep_record(session.record());
        match ended {
            Ended::Failed(error) => Err(error.to_string()),
            Ended::VmmGone | Ended::Detached => Ok(()),
        }
    }

    /// Keeps the first record, and uses it from then on.
    fn keep_record(&self, record: Record) {
        let Some(path) = &self.record else { return };
        let mut prefetch = self.prefetch.lock().expect("no panic while held");
        if prefetch.is_some() || record.runs().is_empty() {
            return;
        }
        if let Err(error) = record.save(path, &self.template.identity()) {
            forkd_log::line("records", &format!("writing {}: {error}", path.display()));
        }
        *prefetch = Some(record);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.is_signalled()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// How much of the template has arrived.
    pub fn report_template(&self) -> Value {
        let template = &self.template;
        json!({ "pages": template.pages(), "arrived": template.arrived(), "broken": template.broken() })
    }

    /// All forks, sorted by name.
    pub fn reports(&self) -> Vec<ForkReport> {
        let states = self.lock();
        let report = |(name, state): (&String, &State)| {
            let session = match state {
                State::Awaited => None,
                State::Served(session) => Some(session),
            };
            ForkReport {
                name: name.clone(),
                pid: session.map(|session| session.pid()),
                shared: session.is_some_and(|session| session.is_shared()),
                stats: session.map(|session| session.stats()),
            }
        };
        let mut all: Vec<ForkReport> = states.iter().map(report).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, State>> {
        self.states.lock().expect("no panic while held")
    }
}
