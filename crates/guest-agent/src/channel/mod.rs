//! The channel: one connection at a time over a link that may have lost its place at any byte.
//!
//! A snapshot can be taken while a frame is half-written in either direction, and is restored under another host. So the
//! host begins with a delimiter and OPEN (a new random id); everything of another id is dropped; and DATA is numbered, so
//! that a lost frame ends the connection instead of putting a hole into it. HTTP/2 runs inside.

mod cobs;
mod frame;

use std::collections::VecDeque;
use std::future::Future;

use frame::{Decoder, Frame, Kind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Bytes between the link and HTTP/2, each way. Small: HTTP/2's own windows are what allows throughput.
const PIPE_BYTES: usize = 64 * 1024;
const LINK_READ_BYTES: usize = 64 * 1024;
/// DATA payload: a sequence number, then the bytes.
const DATA_BYTES_MAX: usize = frame::PAYLOAD_MAX - 4;
/// Ids of ended connections that a late, repeated OPEN must not bring back.
const ENDED_IDS_MAX: usize = 16;
/// Frames waiting for the link.
const OUTBOUND_FRAMES: usize = 2;

struct Connection {
    id: u32,
    inbound: WriteHalf<DuplexStream>,
    sequence: u32,
    /// The server and the outbound pump. Dropping the set ends both, and with them every follower.
    _tasks: JoinSet<()>,
}

/// Serves connections on one link until its other end hangs up.
pub async fn serve<R, W, S, F>(reader: &mut R, writer: &mut W, server: S)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    S: Fn(DuplexStream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let (frames, mut queue) = mpsc::channel::<Vec<u8>>(OUTBOUND_FRAMES);
    let mut channel = Channel {
        server,
        frames,
        connection: None,
        ended: VecDeque::new(),
    };
    let reading = async {
        let mut decoder = Decoder::default();
        let mut buffer = vec![0; LINK_READ_BYTES];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                let (taken, frame) = decoder.next(rest);
                rest = &rest[taken..];
                if let Some(frame) = frame {
                    channel.receive(frame).await;
                }
            }
        }
    };
    let writing = async {
        while let Some(bytes) = queue.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

struct Channel<S> {
    server: S,
    frames: mpsc::Sender<Vec<u8>>,
    connection: Option<Connection>,
    ended: VecDeque<u32>,
}

impl<S, F> Channel<S>
where
    S: Fn(DuplexStream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    async fn receive(&mut self, frame: Frame) {
        let current = self.connection.as_ref().map(|connection| connection.id);
        match frame.kind {
            Kind::Open if self.ended.contains(&frame.connection) => {}
            Kind::Open if current == Some(frame.connection) => {
                self.acknowledge(frame.connection).await;
            }
            Kind::Open => {
                self.end();
                self.open(frame.connection).await;
            }
            Kind::Data if current == Some(frame.connection) => self.deliver(&frame.payload).await,
            Kind::Close if current == Some(frame.connection) => self.end(),
            Kind::Data | Kind::Close | Kind::OpenAck => {}
        }
    }

    async fn acknowledge(&self, id: u32) {
        // The delimiter ends what an earlier connection, perhaps in another VM, had half-written.
        let mut bytes = vec![0];
        bytes.extend(frame::encode(Kind::OpenAck, id, &[]));
        let _ = self.frames.send(bytes).await;
    }

    async fn open(&mut self, id: u32) {
        // The acknowledgement goes before the first DATA: the server speaks as soon as it runs.
        self.acknowledge(id).await;
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let (outbound, inbound) = tokio::io::split(ours);
        let mut tasks = JoinSet::new();
        tasks.spawn((self.server)(theirs));
        tasks.spawn(pump(id, outbound, self.frames.clone()));
        self.connection = Some(Connection {
            id,
            inbound,
            sequence: 0,
            _tasks: tasks,
        });
    }

    async fn deliver(&mut self, payload: &[u8]) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let expected = connection.sequence.to_le_bytes();
        connection.sequence = connection.sequence.wrapping_add(1);
        let delivered = match payload.strip_prefix(&expected) {
            Some(bytes) => connection.inbound.write_all(bytes).await.is_ok(),
            None => false,
        };
        if !delivered {
            let bytes = frame::encode(Kind::Close, connection.id, &[]);
            self.end();
            let _ = self.frames.send(bytes).await;
        }
    }

    fn end(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.ended.push_back(connection.id);
            self.ended.drain(..self.ended.len().saturating_sub(ENDED_IDS_MAX));
        }
    }
}

/// Carries what the server writes to the link, and says CLOSE when the server has ended the connection.
async fn pump(id: u32, mut outbound: ReadHalf<DuplexStream>, frames: mpsc::Sender<Vec<u8>>) {
    let mut buffer = vec![0; DATA_BYTES_MAX];
    let mut sequence = 0u32;
    while let Ok(count @ 1..) = outbound.read(&mut buffer).await {
        let bytes = frame::encode(Kind::Data, id, &[&sequence.to_le_bytes(), &buffer[..count]]);
        sequence = sequence.wrapping_add(1);
        if frames.send(bytes).await.is_err() {
            return;
        }
    }
    let _ = frames.send(frame::encode(Kind::Close, id, &[])).await;
}
