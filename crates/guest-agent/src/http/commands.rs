//! `/v1/commands`: starting, following, feeding, signalling.
//!
//! Output is a stream of frames `kind u8, length u32 LE, payload`: 0 started (JSON), 1 stdout and 2 stderr (offset u64 LE,
//! bytes), 3 exit (JSON), 4 gap (JSON), 5 a part of the drawn screen of a terminal (offset u64 LE of the output that follows
//! it, bytes).

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use ts_rs::TS;

use super::body::{self, Body, Query, empty, frame, json, json_frame, json_of};
use crate::agent::Agent;
use crate::command::pty::Size;
use crate::command::ring::Stream;
use crate::command::session::{Follower, Piece, Session};
use crate::command::signals::Signal;
use crate::error::{ApiError, ErrorCode};

const STARTED: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const EXIT: u8 = 3;
const GAP: u8 = 4;
const SCREEN: u8 = 5;

pub async fn route(
    agent: Arc<Agent>,
    method: &Method,
    path: &[&str],
    query: &Query,
    body: Incoming,
) -> Result<Response<Body>, ApiError> {
    let commands = &agent.commands;
    match (method, path) {
        (&Method::POST, []) => start(&agent, query, body).await,
        (&Method::GET, []) => Ok(json(StatusCode::OK, &commands.list())),
        (&Method::GET, [id]) => Ok(json(StatusCode::OK, &commands.get(id)?.info())),
        (&Method::DELETE, [id]) => commands.forget(id).map(|()| empty()),
        (&Method::GET, [id, "output"]) => output(commands.get(id)?, query),
        (&Method::POST, [id, "stdin"]) => {
            feed(commands.get(id)?, query.flag("close"), body).await?;
            Ok(empty())
        }
        (&Method::PUT, [id, "pty"]) => {
            resize(&*commands.get(id)?, json_of(body).await?)?;
            Ok(empty())
        }
        (&Method::POST, [id, "signal"]) => {
            signal(&*commands.get(id)?, json_of(body).await?)?;
            Ok(empty())
        }
        _ => Err(super::no_such_route(
            method,
            &format!("/v1/commands/{}", path.join("/")),
        )),
    }
}

#[derive(Serialize, TS)]
#[ts(export_to = "agent-wire.ts")]
pub struct Started<'a> {
    id: &'a str,
    /// Absent where the program could not be started.
    pid: Option<u32>,
}

/// Output that the command's ring does not hold any more.
#[derive(Serialize, TS)]
#[ts(export_to = "agent-wire.ts")]
pub struct Gap {
    from: u64,
    to: u64,
}

async fn start(agent: &Agent, query: &Query, body: Incoming) -> Result<Response<Body>, ApiError> {
    let request = json_of(body).await?;
    agent.freezer.until_thawed().await;
    let session = agent.commands.start(&agent.reaper, &agent.config(), request)?;
    let started = Started {
        id: &session.id,
        pid: session.pid,
    };
    if !query.flag("follow") {
        return Ok(json(StatusCode::CREATED, &started));
    }
    let first = json_frame(STARTED, &started);
    let follower = Follower::attach(session.clone(), 0);
    let frames = stream::iter([Ok(first)]).chain(follow(follower));
    Ok(body::stream(frames))
}

fn output(session: Arc<Session>, query: &Query) -> Result<Response<Body>, ApiError> {
    let offset = query.get("offset").map(|text| {
        text.parse()
            .map_err(|_| ApiError::bad_request(ErrorCode::BadRequest, format!("{text} is no output offset")))
    });
    let offset = offset.transpose()?;
    let follower = if query.flag("view") {
        if !session.has_terminal() {
            return Err(not_a_terminal(&session));
        }
        Follower::view(session, offset)
    } else {
        Follower::attach(session, offset.unwrap_or(0))
    };
    if query.flag("follow") {
        return Ok(body::stream(follow(follower)));
    }
    let present = stream::unfold(follower, |mut follower| async move {
        let piece = follower.take()?;
        Some((Ok(frame_of(&piece)), follower))
    });
    Ok(body::stream(present))
}

fn follow(follower: Follower) -> impl stream::Stream<Item = io::Result<Bytes>> {
    stream::unfold(follower, |mut follower| async move {
        let piece = follower.next().await?;
        Some((Ok(frame_of(&piece)), follower))
    })
}

fn frame_of(piece: &Piece) -> Bytes {
    match piece {
        Piece::Output(stream, offset, bytes) => {
            let kind = match stream {
                Stream::Stdout => STDOUT,
                Stream::Stderr => STDERR,
            };
            frame(kind, &[&offset.to_le_bytes(), bytes])
        }
        Piece::Gap { from, to } => json_frame(GAP, &Gap { from: *from, to: *to }),
        Piece::Screen(offset, bytes) => frame(SCREEN, &[&offset.to_le_bytes(), bytes]),
        Piece::Exit(exit) => json_frame(EXIT, exit),
    }
}

async fn feed(session: Arc<Session>, close: bool, mut body: Incoming) -> Result<(), ApiError> {
    let closed = || {
        let message = format!("command {} takes no more input", session.id);
        ApiError::new(StatusCode::CONFLICT, ErrorCode::StdinClosed, message)
    };
    let mut changes = session.changes();
    let ended = async { while session.exit().is_none() && changes.changed().await.is_ok() {} };
    let feeding = async {
        let mut held = session.stdin.lock().await;
        let pipe = held.as_mut().ok_or_else(closed)?;
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame.map_err(body::broken)?.into_data()
                && pipe.write_all(&bytes).await.is_err()
            {
                held.take();
                return Err(closed());
            }
        }
        if close {
            held.take();
        }
        Ok(())
    };
    tokio::select! {
        biased;
        fed = feeding => fed,
        // A process that has ended reads no more, though one it left behind may hold the pipe full.
        () = ended => Err(closed()),
    }
}

#[derive(Deserialize, TS)]
#[serde(deny_unknown_fields)]
#[ts(export_to = "agent-wire.ts")]
pub struct SignalRequest {
    signal: Signal,
}

fn signal(session: &Session, request: SignalRequest) -> Result<(), ApiError> {
    let number = request
        .signal
        .number()
        .ok_or_else(|| ApiError::bad_request(ErrorCode::BadSignal, "there is no such signal"))?;
    match session.signal(number) {
        Ok(true) => Ok(()),
        Ok(false) => Err(not_running(session)),
        Err(error) => Err(ApiError::io(format_args!("signal {}", session.id), &error)),
    }
}

fn resize(session: &Session, size: Size) -> Result<(), ApiError> {
    let size = size.check()?;
    if !session.has_terminal() {
        return Err(not_a_terminal(session));
    }
    match session.resize(size) {
        Ok(true) => Ok(()),
        Ok(false) => Err(not_running(session)),
        Err(error) => Err(ApiError::io(format_args!("resize {}", session.id), &error)),
    }
}

fn not_running(session: &Session) -> ApiError {
    let message = format!("command {} has ended", session.id);
    ApiError::new(StatusCode::CONFLICT, ErrorCode::NotRunning, message)
}

fn not_a_terminal(session: &Session) -> ApiError {
    let message = format!("command {} has no terminal", session.id);
    ApiError::bad_request(ErrorCode::NotATerminal, message)
}
