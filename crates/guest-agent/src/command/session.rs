//! A command's session: its process, its output, its end. It belongs to the agent, not to the connection that asked for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde::Serialize;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use ts_rs::TS;

use super::ring::{Ring, Stream};

/// How a command ended, as the API tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, TS)]
#[ts(export_to = "agent-wire.ts")]
pub struct Exit {
    /// 128 + the signal where one ended it, as shells count.
    pub exit_code: i32,
    /// The signal's name without SIG, or its number.
    pub signal: Option<String>,
    pub timed_out: bool,
    /// Why the command never ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[ts(optional)]
    pub error_code: Option<CommandError>,
}

/// Why a command never ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export_to = "agent-wire.ts")]
pub enum CommandError {
    /// Exit code 127.
    CommandNotFound,
    /// Exit code 126.
    PermissionDenied,
}

#[derive(Serialize, TS)]
#[ts(export_to = "agent-wire.ts", rename = "Command")]
pub struct Info {
    pub id: String,
    pub pid: Option<u32>,
    pub args: Vec<String>,
    pub running: bool,
    pub exit_code: Option<i32>,
    pub signal: Option<String>,
    pub timed_out: bool,
    pub started_unix_ms: u64,
    pub output_start: u64,
    pub output_end: u64,
}

pub struct Session {
    pub id: String,
    pub args: Vec<String>,
    /// Absent where the program could not be started.
    pub pid: Option<u32>,
    pub started_unix_ms: u64,
    /// The process' standard input, until it is closed. The lock keeps concurrent writers' bodies apart.
    pub stdin: tokio::sync::Mutex<Option<pipe::Sender>>,
    state: Mutex<State>,
    /// Counts changes of `state`: output, followers come and gone, the end.
    changes: watch::Sender<u64>,
}

struct State {
    ring: Ring,
    /// Offset that each follower has read up to.
    followers: BTreeMap<u64, u64>,
    follower_next: u64,
    /// Bytes that may be between a follower and its reader when the connection breaks. They are kept for the next attach.
    margin: u64,
    /// The main process has ended: its pid must not be signalled any more.
    reaped: bool,
    exit: Option<Exit>,
}

/// Longest piece of output given to a follower at once.
const PIECE_BYTES_MAX: usize = 32 * 1024;

impl Session {
    pub fn new(
        id: String,
        args: Vec<String>,
        pid: Option<u32>,
        started_unix_ms: u64,
        stdin: Option<pipe::Sender>,
        ring_bytes: usize,
    ) -> Session {
        Session {
            id,
            args,
            pid,
            started_unix_ms,
            stdin: tokio::sync::Mutex::new(stdin),
            state: Mutex::new(State {
                ring: Ring::new(ring_bytes),
                followers: BTreeMap::new(),
                follower_next: 0,
                margin: ring_bytes as u64 / 2,
                reaped: false,
                exit: None,
            }),
            changes: watch::Sender::new(0),
        }
    }

    pub fn info(&self) -> Info {
        let state = self.state.lock().expect("no holder panics");
        let exit = state.exit.as_ref();
        Info {
            id: self.id.clone(),
            pid: self.pid,
            args: self.args.clone(),
            running: exit.is_none(),
            exit_code: exit.map(|exit| exit.exit_code),
            signal: exit.and_then(|exit| exit.signal.clone()),
            timed_out: exit.is_some_and(|exit| exit.timed_out),
            started_unix_ms: self.started_unix_ms,
            output_start: state.ring.start(),
            output_end: state.ring.end(),
        }
    }

    pub fn exit(&self) -> Option<Exit> {
        self.state.lock().expect("no holder panics").exit.clone()
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Bytes of memory that the kept output takes, and whether somebody is reading it.
    pub fn weight(&self) -> (u64, bool) {
        let state = self.state.lock().expect("no holder panics");
        (state.ring.end() - state.ring.start(), !state.followers.is_empty())
    }

    /// How many bytes of output can be taken in now. With no follower the oldest give way; with one, none that it lacks.
    pub fn room(&self) -> usize {
        let state = self.state.lock().expect("no holder panics");
        match state.followers.values().min() {
            None => usize::MAX,
            Some(position) => state.ring.room(position.saturating_sub(state.margin)),
        }
    }

    pub fn push(&self, stream: Stream, bytes: &[u8]) {
        self.change(|state| state.ring.push(stream, bytes));
    }

    pub fn mark_reaped(&self) {
        self.change(|state| state.reaped = true);
    }

    /// The end: no output comes after it.
    pub fn finish(&self, exit: Exit) {
        self.change(|state| {
            assert!(state.exit.is_none(), "a command ends once");
            state.reaped = true;
            state.exit = Some(exit);
        });
    }

    /// Sends a signal to the command's process group. `false` where its main process has ended.
    pub fn signal(&self, signal: i32) -> std::io::Result<bool> {
        let state = self.state.lock().expect("no holder panics");
        match self.pid {
            Some(pid) if !state.reaped => crate::sys::kill_group(pid, signal).map(|()| true),
            _ => Ok(false),
        }
    }

    fn change(&self, apply: impl FnOnce(&mut State)) {
        apply(&mut self.state.lock().expect("no holder panics"));
        self.changes.send_modify(|count| *count += 1);
    }
}

/// The next item for a follower.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Output(Stream, u64, Vec<u8>),
    /// Bytes that were dropped before anybody asked for them.
    Gap {
        from: u64,
        to: u64,
    },
    Exit(Exit),
}

/// Reads a session's output in order. While it lives, nothing that it has not read is dropped.
pub struct Follower {
    session: Arc<Session>,
    key: u64,
    position: u64,
    changes: watch::Receiver<u64>,
    done: bool,
}

impl Follower {
    /// Starts at `offset`. An offset past the end is the end.
    pub fn attach(session: Arc<Session>, offset: u64) -> Follower {
        let changes = session.changes.subscribe();
        let (mut key, mut position) = (0, 0);
        session.change(|state| {
            key = state.follower_next;
            state.follower_next += 1;
            position = offset.min(state.ring.end());
            state.followers.insert(key, position);
        });
        Follower {
            session,
            key,
            position,
            changes,
            done: false,
        }
    }

    /// The next piece, or `None` after the exit.
    pub async fn next(&mut self) -> Option<Piece> {
        loop {
            self.changes.mark_unchanged();
            if let Some(piece) = self.take() {
                return Some(piece);
            }
            if self.done {
                return None;
            }
            // The session is held here, so that its sender cannot be gone.
            let _ = self.changes.changed().await;
        }
    }

    /// The next piece where there is one already; the exit only once.
    pub fn take(&mut self) -> Option<Piece> {
        if self.done {
            return None;
        }
        let mut state = self.session.state.lock().expect("no holder panics");
        let start = state.ring.start();
        let piece = if self.position < start {
            Piece::Gap {
                from: self.position,
                to: start,
            }
        } else if let Some((stream, bytes)) = state.ring.read(self.position, PIECE_BYTES_MAX) {
            Piece::Output(stream, self.position, bytes)
        } else {
            let exit = state.exit.clone()?;
            self.done = true;
            return Some(Piece::Exit(exit));
        };
        self.position = match &piece {
            Piece::Output(_, from, bytes) => from + bytes.len() as u64,
            Piece::Gap { to, .. } => *to,
            Piece::Exit(_) => self.position,
        };
        state.followers.insert(self.key, self.position);
        drop(state);
        self.session.changes.send_modify(|count| *count += 1);
        Some(piece)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.session.change(|state| {
            state.followers.remove(&self.key);
        });
    }
}
