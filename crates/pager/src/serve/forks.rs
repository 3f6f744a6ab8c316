//! The forks of a page server that stands by itself: a socket each.

use super::options::Options;
use crate::listen;
use forkd_linux_sys::fds::{self, Bell, Wait};
use forkd_page_server::{Ended, PageServer, Record, Session, SessionOptions, Summary, Template};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// A VMM connects to its socket within this time.
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
const NAME_LENGTH_MAX: usize = 64;
/// Its own socket has that name.
const CONTROL: &str = "control";

/// How far a fork is.
enum State {
    /// Nobody has connected yet, or its handshake is awaited.
    Awaited,
    Served(Arc<Session>),
}

pub struct Forks {
    server: PageServer,
    template: Arc<dyn Template>,
    dir: PathBuf,
    forks_max: usize,
    /// Where what a fork asks for is recorded, and what one has asked for.
    record: Option<PathBuf>,
    prefetch: Mutex<Option<Record>>,
    states: Mutex<HashMap<String, State>>,
    /// Rung when no new forks are taken.
    pub draining: Bell,
}

/// One fork, as it is told of.
#[derive(Serialize)]
pub struct Told {
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
            draining: Bell::new()?,
        })
    }

    pub fn server(&self) -> &PageServer {
        &self.server
    }

    /// Makes a socket for one VMM, which is served when it connects.
    pub fn make(self: &Arc<Forks>, name: &str, populate: bool) -> Result<PathBuf, String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > NAME_LENGTH_MAX || !name.bytes().all(is_plain) || name == CONTROL {
            return Err(format!(
                "{name:?} is no name: 1 to {NAME_LENGTH_MAX} letters, digits, - and _, not {CONTROL}"
            ));
        }
        if self.is_draining() {
            return Err("no new forks are taken: the server is draining".into());
        }
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
        let listener = listen(&path, 0o600).map_err(|error| format!("listening at {}: {error}", path.display()))?;
        let (theirs, their_name, their_path) = (self.clone(), name.to_owned(), path.clone());
        let spawned = std::thread::Builder::new().name("fork".into()).spawn(move || {
            if let Err(reason) = theirs.serve(&listener, &their_path, &their_name, populate) {
                eprintln!("forkd-pager serve: fork {their_name}: {reason}");
            }
            theirs.lock().remove(&their_name);
        });
        spawned.map_err(|error| format!("starting a thread: {error}"))?;
        states.insert(name.into(), State::Awaited);
        Ok(path)
    }

    fn serve(&self, listener: &UnixListener, path: &Path, name: &str, populate: bool) -> Result<(), String> {
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
        let served = self.server.serve(stream?, self.template.clone(), options);
        let session = served.map_err(|error| error.to_string())?;
        let session = Arc::new(session);
        self.lock().insert(name.into(), State::Served(session.clone()));
        let ended = session.wait_until_ended();
        // Before the fork is gone from the list: whoever sees that finds the record.
        self.keep_record(session.record());
        match ended {
            Ended::Failed(error) => Err(error.to_string()),
            Ended::VmmGone | Ended::Detached => Ok(()),
        }
    }

    /// The first one is kept, and used from then on.
    fn keep_record(&self, record: Record) {
        let Some(path) = &self.record else { return };
        let mut prefetch = self.prefetch.lock().expect("no panic while held");
        if prefetch.is_some() || record.runs().is_empty() {
            return;
        }
        if let Err(error) = record.save(path, &self.template.identity()) {
            eprintln!("forkd-pager serve: writing the record {}: {error}", path.display());
        }
        *prefetch = Some(record);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.is_rung()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// How much of the template there is.
    pub fn tell_template(&self) -> Value {
        let template = &self.template;
        json!({ "pages": template.pages(), "arrived": template.arrived(), "broken": template.broken() })
    }

    /// All of them, by name.
    pub fn tell(&self) -> Vec<Told> {
        let states = self.lock();
        let told = |(name, state): (&String, &State)| {
            let session = match state {
                State::Awaited => None,
                State::Served(session) => Some(session),
            };
            Told {
                name: name.clone(),
                pid: session.map(|session| session.pid()),
                shared: session.is_some_and(|session| session.is_shared()),
                stats: session.map(|session| session.stats()),
            }
        };
        let mut all: Vec<Told> = states.iter().map(told).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, State>> {
        self.states.lock().expect("no panic while held")
    }
}
