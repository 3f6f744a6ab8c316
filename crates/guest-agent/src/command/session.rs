//! A command's session: its process, its output, its end. It belongs to the agent, not to the connection that asked for it.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use ts_rs::TS;

use super::pty::{Pty, Size};
use super::ring::{Ring, Stream};
use super::screen::Screen;

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
    /// The size of its terminal, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[ts(optional)]
    pub pty: Option<Size>,
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
    /// The screen of a command with a terminal, and until its end the terminal itself.
    screen: Option<Screen>,
    pty: Option<Pty>,
    followers: BTreeMap<u64, Reading>,
    follower_next: u64,
    /// Bytes that may be between a follower and its reader when the connection breaks. They are kept for the next attach.
    margin: u64,
    /// The main process has ended: its pid must not be signalled any more.
    reaped: bool,
    exit: Option<Exit>,
}

/// How far a follower has read.
struct Reading {
    /// Offset of the next byte.
    position: u64,
    is_viewer: bool,
    /// When the viewer was first seen to hold the terminal up, and its position then.
    held: Option<(Instant, u64)>,
    /// The viewer is too slow, and gets the screen next in place of what it lacks.
    is_left: bool,
}

/// A viewer may hold a terminal up as long as it reads so much in such a time.
const VIEWER_PATIENCE: Duration = Duration::from_millis(250);
const VIEWER_BYTES_MIN: u64 = 128 * 1024;

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
                screen: None,
                pty: None,
                followers: BTreeMap::new(),
                follower_next: 0,
                margin: ring_bytes as u64 / 2,
                reaped: false,
                exit: None,
            }),
            changes: watch::Sender::new(0),
        }
    }

    /// Adds a terminal, before anything happens. A command that never ran has a screen, too, on which the reason stands.
    pub fn with_terminal(mut self, size: Size, pty: Option<Pty>) -> Session {
        let state = self.state.get_mut().expect("no holder panics");
        state.screen = Some(Screen::new(size));
        state.pty = pty;
        self
    }

    pub fn has_terminal(&self) -> bool {
        self.state.lock().expect("no holder panics").screen.is_some()
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
            pty: state.screen.as_ref().map(Screen::size),
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
        let waited_for = state.followers.values().filter(|reading| !reading.is_left);
        match waited_for.map(|reading| reading.position).min() {
            None => usize::MAX,
            Some(position) => state.ring.room(position.saturating_sub(state.margin)),
        }
    }

    /// Stops waiting for viewers that read next to nothing while they hold the terminal up.
    pub fn leave_slow_viewers(&self) {
        let now = Instant::now();
        let mut state = self.state.lock().expect("no holder panics");
        let State {
            ring,
            followers,
            margin,
            ..
        } = &mut *state;
        for reading in followers.values_mut().filter(|reading| reading.is_viewer) {
            if ring.room(reading.position.saturating_sub(*margin)) > 0 {
                continue;
            }
            let (since, from) = *reading.held.get_or_insert((now, reading.position));
            if now - since >= VIEWER_PATIENCE {
                reading.is_left = reading.position - from < VIEWER_BYTES_MIN;
                reading.held = Some((now, reading.position));
            }
        }
    }

    /// Sets the size of the terminal. `false` where there is none, or none any more.
    pub fn resize(&self, size: Size) -> std::io::Result<bool> {
        let mut guard = self.state.lock().expect("no holder panics");
        let state = &mut *guard;
        let (Some(pty), Some(screen)) = (&state.pty, &mut state.screen) else {
            return Ok(false);
        };
        screen.resize(size);
        pty.resize(size).map(|()| true)
    }

    pub fn push(&self, stream: Stream, bytes: &[u8]) {
        self.change(|state| {
            state.ring.push(stream, bytes);
            if let Some(screen) = &mut state.screen {
                screen.feed(bytes);
            }
        });
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
            state.pty = None;
        });
    }

    /// Sends a signal to the command's process group; with a terminal, to that in its foreground, too, as its keys do. Only
    /// what ends a session goes to both. `false` where the main process has ended.
    pub fn signal(&self, signal: i32) -> std::io::Result<bool> {
        let state = self.state.lock().expect("no holder panics");
        let Some(pid) = self.pid.filter(|_| !state.reaped) else {
            return Ok(false);
        };
        let foreground = state.pty.as_ref().and_then(Pty::foreground_group);
        let Some(foreground) = foreground.filter(|group| *group != pid) else {
            return crate::sys::kill_group(pid, signal).map(|()| true);
        };
        // The program in the foreground may have ended meanwhile.
        let _ = crate::sys::kill_group(foreground, signal);
        if matches!(signal, libc::SIGHUP | libc::SIGTERM | libc::SIGKILL) {
            crate::sys::kill_group(pid, signal)?;
        }
        Ok(true)
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
    /// A part of what draws the screen as the output up to this offset has left it. The output continues from there.
    Screen(u64, Vec<u8>),
    Exit(Exit),
}

/// Reads a session's output in order. While it lives, nothing that it has not read is dropped, unless it is a viewer.
pub struct Follower {
    session: Arc<Session>,
    key: u64,
    position: u64,
    changes: watch::Receiver<u64>,
    /// The rest of a screen that was drawn.
    drawn: VecDeque<u8>,
    /// The first piece is the screen.
    begins_with_screen: bool,
    done: bool,
}

impl Follower {
    /// Starts at `offset`. An offset past the end is the end.
    pub fn attach(session: Arc<Session>, offset: u64) -> Follower {
        Follower::new(session, Some(offset), false)
    }

    /// Views a terminal, from an offset or from its screen on. What a viewer is too slow for is replaced by the screen.
    pub fn view(session: Arc<Session>, offset: Option<u64>) -> Follower {
        Follower::new(session, offset, true)
    }

    fn new(session: Arc<Session>, offset: Option<u64>, is_viewer: bool) -> Follower {
        let changes = session.changes.subscribe();
        let (mut key, mut position) = (0, 0);
        session.change(|state| {
            key = state.follower_next;
            state.follower_next += 1;
            position = offset.unwrap_or(u64::MAX).min(state.ring.end());
            let reading = Reading {
                position,
                is_viewer,
                held: None,
                is_left: false,
            };
            state.followers.insert(key, reading);
        });
        Follower {
            session,
            key,
            position,
            changes,
            drawn: VecDeque::new(),
            begins_with_screen: offset.is_none(),
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
        if !self.drawn.is_empty() {
            let length = self.drawn.len().min(PIECE_BYTES_MAX);
            return Some(Piece::Screen(self.position, self.drawn.drain(..length).collect()));
        }
        let mut guard = self.session.state.lock().expect("no holder panics");
        let state = &mut *guard;
        let start = state.ring.start();
        let reading = state.followers.get_mut(&self.key).expect("there until it is dropped");
        let lacks = reading.is_viewer && (reading.is_left || self.position < start);
        if let Some(screen) = &mut state.screen
            && (lacks || self.begins_with_screen)
        {
            self.drawn = screen.drawn(self.begins_with_screen).into();
            self.begins_with_screen = false;
            self.position = screen.offset();
            (reading.position, reading.held, reading.is_left) = (self.position, None, false);
            drop(guard);
            self.session.changes.send_modify(|count| *count += 1);
            return self.take();
        }
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
            Piece::Screen(..) | Piece::Exit(_) => self.position,
        };
        reading.position = self.position;
        if self.position == state.ring.end() {
            reading.held = None;
        }
        drop(guard);
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
