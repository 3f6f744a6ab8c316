//! `/v1/ports/PORT`: a connection to a program that listens in this guest, also on loopback only. The bodies of request and
//! response are its two directions.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::body::{self, Body};
use crate::agent::Agent;
use crate::error::{ApiError, ErrorCode};

/// A listener of this machine accepts or refuses within this time, unless its queue is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 32 * 1024;
/// Programs listen on `localhost`, which is either of these.
const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Connects, and passes bytes on in both directions. The connection ends with the request: the guest of a fork keeps none of it.
pub async fn connect(agent: &Agent, port: &str, body: Incoming) -> Result<Response<Body>, ApiError> {
    let port: u16 = port
        .parse()
        .map_err(|_| ApiError::bad_request(ErrorCode::BadRequest, format!("{port} is no port")))?;
    let permit = Arc::new(agent.port_permit()?);
    let (from_program, to_program) = dial(port).await?.into_split();
    let (said_all, ended) = oneshot::channel::<()>();
    let held = permit.clone();
    tokio::spawn(async move {
        let feeding = feed(to_program, body);
        tokio::pin!(feeding);
        tokio::select! {
            () = &mut feeding => {}
            end = ended => if end.is_ok() {
                // The program has said all, and may still read. Without its response the whole connection ends.
                feeding.await;
            }
        }
        drop(held);
    });
    let chunks = stream::unfold(Some((from_program, permit, said_all)), |state| async move {
        let (mut from_program, permit, said_all) = state?;
        match read(&mut from_program).await {
            Ok(None) => {
                let _ = said_all.send(());
                None
            }
            Ok(Some(chunk)) => Some((Ok(chunk), Some((from_program, permit, said_all)))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(body::stream(chunks))
}

async fn dial(port: u16) -> Result<TcpStream, ApiError> {
    let mut failures = Vec::new();
    for address in LOOPBACKS {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect((address, port))).await {
            Ok(Ok(stream)) => {
                // Bytes are passed on as they come.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => failures.push(format!("{address}: {error}")),
            Err(_) => failures.push(format!("{address}: nothing accepts")),
        }
    }
    let message = format!("port {port} cannot be reached in the guest ({})", failures.join(", "));
    Err(ApiError::new(
        StatusCode::BAD_GATEWAY,
        ErrorCode::PortUnreachable,
        message,
    ))
}

async fn read(from_program: &mut OwnedReadHalf) -> io::Result<Option<Bytes>> {
    let mut chunk = BytesMut::with_capacity(READ_BYTES);
    let count = from_program.read_buf(&mut chunk).await?;
    Ok((count > 0).then(|| chunk.freeze()))
}

/// Passes the request's body on. Its end closes this direction of the connection; a body that breaks off, or a program that
/// reads no more, ends it as well.
async fn feed(mut to_program: OwnedWriteHalf, mut body: Incoming) {
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(bytes) = frame.into_data()
            && to_program.write_all(&bytes).await.is_err()
        {
            return;
        }
    }
    let _ = to_program.shutdown().await;
}
