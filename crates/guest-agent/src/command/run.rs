//! The life of a command: 1. started; 2. its output read until its main process has ended and its pipes are at their end
//! (or silent for a short grace, where a child of it still holds them); 3. finished, its output kept.
//! A command with a terminal has that in place of its pipes.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::ring::Stream;
use super::session::{Exit, Session};
use crate::sys::Ended;

/// How long after the end of the main process output of those that it left behind is waited for.
const PIPE_GRACE: Duration = Duration::from_millis(250);
/// How often viewers that hold a terminal up are looked at.
const VIEWER_LOOK: Duration = Duration::from_millis(50);
const READ_BYTES: usize = 64 * 1024;
/// A longer timeout is as good as none, and would overflow the clock.
const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The most that a pipe can hold by default limits: what stands in it when it is left is still read.
const LEFT_BYTES_MAX: usize = 1024 * 1024;

pub struct Process {
    pub ended: oneshot::Receiver<Ended>,
    pub stdout: pipe::Receiver,
    pub stderr: Option<pipe::Receiver>,
    pub timeout: Option<Duration>,
}

/// Follows the process to its end. Output is read even while nobody is connected.
pub async fn run(session: Arc<Session>, process: Process) {
    let (leave_pipes, leave) = watch::channel(false);
    let mut pumps = pin!(async {
        tokio::join!(pump(&session, Stream::Stdout, process.stdout, leave.clone()), async {
            if let Some(stderr) = process.stderr {
                pump(&session, Stream::Stderr, stderr, leave.clone()).await;
            }
        },)
    });
    let mut waiting = pin!(wait(&session, process.ended, process.timeout));
    let mut pipes_ended = false;
    // Whichever is first: a process may close its output long before it ends, or leave it open behind itself.
    let (ended, timed_out) = loop {
        tokio::select! {
            _ = &mut pumps, if !pipes_ended => pipes_ended = true,
            outcome = &mut waiting => break outcome,
        }
    };
    session.mark_reaped();
    if !pipes_ended && timeout(PIPE_GRACE, &mut pumps).await.is_err() {
        let _ = leave_pipes.send(true);
        pumps.await;
    }
    // First the end, then the input: one who is feeding holds the lock until it sees the end.
    session.finish(exit_of(ended, timed_out));
    session.stdin.lock().await.take();
}

async fn wait(session: &Session, mut ended: oneshot::Receiver<Ended>, limit: Option<Duration>) -> (Ended, bool) {
    let deadline = Instant::now() + limit.unwrap_or(TIMEOUT_MAX).min(TIMEOUT_MAX);
    let mut timed_out = false;
    let ended = tokio::select! {
        ended = &mut ended => ended,
        () = sleep_until(deadline) => {
            timed_out = true;
            let _ = session.signal(libc::SIGKILL);
            ended.await
        }
    };
    // The reaper lives as long as the agent: its sender is only dropped unsent when the agent ends.
    (ended.unwrap_or(Ended::Signalled(libc::SIGKILL)), timed_out)
}

/// Reads one pipe into the session, as far as its followers keep up.
async fn pump(session: &Session, stream: Stream, pipe: pipe::Receiver, mut leave: watch::Receiver<bool>) {
    let mut changes = session.changes();
    let mut buffer = vec![0; READ_BYTES];
    let mut left = LEFT_BYTES_MAX;
    while left > 0 {
        changes.mark_unchanged();
        let room = session.room();
        if room == 0 {
            let _ = timeout(VIEWER_LOOK, changes.changed()).await;
            session.leave_slow_viewers();
            continue;
        }
        match pipe.try_read(&mut buffer[..room.min(READ_BYTES)]) {
            Ok(0) => return,
            Ok(count) => {
                session.push(stream, &buffer[..count]);
                if *leave.borrow() {
                    left = left.saturating_sub(count);
                }
                // A fast writer must not keep its readers from running.
                tokio::task::yield_now().await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if *leave.borrow() {
                    return;
                }
                tokio::select! {
                    ready = pipe.readable() => if ready.is_err() { return },
                    _ = leave.changed() => {}
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn exit_of(ended: Ended, timed_out: bool) -> Exit {
    let (exit_code, signal) = match ended {
        Ended::Exited(code) => (code, None),
        Ended::Signalled(signal) => (128 + signal, Some(super::signals::name(signal))),
    };
    Exit {
        exit_code,
        signal,
        timed_out,
        error_code: None,
    }
}
