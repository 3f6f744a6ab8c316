//! The agent's API: HTTP/2 with prior knowledge on a connection of the channel.

mod body;
mod commands;
mod files;
mod ports;
#[cfg(test)]
mod typescript;
mod watch;

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Serialize;
use tokio::io::DuplexStream;
use ts_rs::TS;

use crate::agent::Agent;
use crate::config::Config;
use crate::error::{ApiError, ErrorCode};
use crate::{clock, eval, identity};
use body::{Body, Query, empty, json, json_of};
pub use files::is_temporary;

/// Windows of what the host sends. (Those of what it receives are the host's to set.)
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Bytes that are buffered for a slow reader, besides its window.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
const STREAMS_MAX: u32 = 256;

/// Serves one connection to its end.
pub async fn serve(agent: Arc<Agent>, stream: DuplexStream) {
    let service = service_fn(move |request| {
        let agent = agent.clone();
        async move { Ok::<_, Infallible>(answer(agent, request).await) }
    });
    // How a connection ends is not the agent's concern: the host opens another.
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(agent: Arc<Agent>, request: Request<Incoming>) -> Response<Body> {
    match route(agent, request).await {
        Ok(response) => response,
        Err(error) => {
            let failure = Failure {
                error: error.message,
                code: error.code,
            };
            json(error.status, &failure)
        }
    }
}

async fn route(agent: Arc<Agent>, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query());
    let segments: Vec<&str> = parts.uri.path().split('/').skip(1).collect();
    match (&parts.method, segments.as_slice()) {
        (&Method::GET, ["v1", "ping"]) => Ok(ping(&agent)),
        (&Method::PUT, ["v1", "config"]) => {
            agent.configure(json_of::<Config>(body).await?)?;
            Ok(empty())
        }
        (&Method::POST, ["v1", "freeze"]) => {
            detached(agent.freeze()).await?;
            Ok(empty())
        }
        (&Method::POST, ["v1", "thaw"]) => {
            let was_frozen = agent.freezer.thaw();
            Ok(json(StatusCode::OK, &Thawed { was_frozen }))
        }
        (&Method::PUT, ["v1", "clock"]) => {
            json_of::<clock::Request>(body).await?.apply(agent.owns_machine)?;
            Ok(empty())
        }
        (&Method::GET, ["v1", "refresh"]) => Ok(json(StatusCode::OK, agent.refresh())),
        (&Method::GET, ["v1", "identity"]) => Ok(json(StatusCode::OK, &agent.identity())),
        (&Method::POST, ["v1", "identity"]) => identify(agent, body).await,
        (method, ["v1", "commands", rest @ ..]) => commands::route(agent, method, rest, &query, body).await,
        (method, ["v1", "files"]) => files::route(&agent, method, &query, body).await,
        (&Method::GET, ["v1", "dir"]) => files::list(&agent, &query).await,
        (&Method::PUT, ["v1", "dir"]) => files::make_dir(&agent, &query).await,
        (&Method::GET, ["v1", "stat"]) => files::stat(&agent, &query).await,
        (&Method::GET, ["v1", "watch"]) => watch::watch(&agent, &query).await,
        (&Method::POST, ["v1", "ports", port]) => ports::connect(&agent, port, body).await,
        (&Method::POST, ["v1", "rename"]) => files::rename(&agent, &query).await,
        (&Method::POST, ["v1", "eval"]) => {
            let request = json_of::<eval::Request>(body).await?;
            let turn = agent.interpreters.turn_to_evaluate(&request).await?;
            agent.freezer.until_thawed().await;
            let work = turn.evaluate(agent.reaper.clone(), agent.config(), request);
            Ok(json(StatusCode::OK, &detached(work).await?))
        }
        (&Method::POST, ["v1", "interpreters"]) => {
            let request = json_of::<eval::StartRequest>(body).await?;
            let turn = agent.interpreters.turn_to_start(&request).await?;
            agent.freezer.until_thawed().await;
            detached(turn.start(agent.reaper.clone(), agent.config())).await?;
            Ok(empty())
        }
        (&Method::DELETE, ["v1", "interpreters", language]) => {
            agent.interpreters.stop(language)?;
            Ok(empty())
        }
        (method, _) => Err(no_such_route(method, parts.uri.path())),
    }
}

fn no_such_route(method: &Method, path: &str) -> ApiError {
    ApiError::not_found(ErrorCode::NoSuchRoute, format!("the agent has no {method} {path}"))
}

#[derive(Serialize, TS)]
#[ts(export_to = "agent-wire.ts")]
struct Failure {
    error: String,
    code: ErrorCode,
}

#[derive(Serialize, TS)]
#[ts(export_to = "agent-wire.ts")]
struct Thawed {
    was_frozen: bool,
}

#[derive(Serialize, TS)]
#[ts(export_to = "agent-wire.ts")]
struct Identified {
    generation: u64,
    /// `kernel`, and each warm interpreter that has confirmed its new seed.
    reseeded: Vec<&'static str>,
}

#[derive(Serialize, TS)]
#[ts(export_to = "agent-wire.ts")]
struct Pong {
    pong: bool,
    pid: u32,
    version: &'static str,
    generation: u64,
    uptime_ms: u64,
}

fn ping(agent: &Agent) -> Response<Body> {
    let pong = Pong {
        pong: true,
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION"),
        generation: agent.identity().generation,
        uptime_ms: agent.uptime_ms(),
    };
    json(StatusCode::OK, &pong)
}

async fn identify(agent: Arc<Agent>, body: Incoming) -> Result<Response<Body>, ApiError> {
    let request = json_of::<identity::Request>(body).await?;
    let (generation, reseeded) = detached(async move { agent.identify(request).await }).await?;
    Ok(json(StatusCode::OK, &Identified { generation, reseeded }))
}

/// Runs to its end what must not be left half-done when the connection breaks.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(work).await.unwrap_or_else(|failure| {
        let message = format!("the agent failed: {failure}");
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Err(ApiError::new(status, ErrorCode::Internal, message))
    })
}
