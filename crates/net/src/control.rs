//! Answers controllers and launchers.

use crate::host::Caller;
use crate::journal::Journal;
use crate::lines::{self, Lines};
use crate::wires::{Wires, fault};
use forkd_protocol::net::{Answer, Fault, FaultCode, Op, PROTOCOL_VERSION, Reply, Request};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A peer that does not read its answers for so long is given up.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// How often a thread that waits for flow records looks whether its peer is still there.
const RECORD_PATIENCE: Duration = Duration::from_secs(1);

struct Connection {
    wires: Arc<Wires>,
    journal: Arc<Journal>,
    out: Mutex<UnixStream>,
    has_ended: AtomicBool,
}

/// Serves one peer until it closes its connection.
pub fn converse(stream: UnixStream, wires: Arc<Wires>, journal: Arc<Journal>) {
    let Ok(input) = stream.try_clone() else { return };
    if stream.set_write_timeout(Some(WRITE_PATIENCE)).is_err() {
        return;
    }
    let connection = Arc::new(Connection {
        wires,
        journal,
        out: Mutex::new(stream),
        has_ended: AtomicBool::new(false),
    });
    let mut lines = Lines::new(input);
    // A line that is too long ends the connection, as does its end.
    while let Ok(Some(line)) = lines.next() {
        let request = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => request,
            Err(error) => {
                let message = format!("the request is not understood: {error}");
                connection.finish(id_of(&line), Err(fault(FaultCode::BadRequest, message)));
                continue;
            }
        };
        match request.op {
            Op::Attach { key } => {
                let socket = lines.take_fd();
                let attached = connection.wires.attach(&key, socket);
                connection.finish(request.id, attached.map(|()| Answer::Done));
            }
            Op::Dial { key, port } => {
                connection.dial(request.id, &key, port, lines);
                break;
            }
            op => connection.clone().start(request.id, op),
        }
    }
    connection.has_ended.store(true, Ordering::Relaxed);
}

/// The id of a request that is not understood.
fn id_of(line: &[u8]) -> u64 {
    let value = serde_json::from_slice::<serde_json::Value>(line).ok();
    value.and_then(|value| value.get("id")?.as_u64()).unwrap_or(0)
}

impl Connection {
    /// Serves a request in a thread of its own, so that a sandbox that is slow to answer delays no other.
    fn start(self: Arc<Self>, id: u64, op: Op) {
        let theirs = self.clone();
        let thread = std::thread::Builder::new().name("request".into());
        if let Err(error) = thread.spawn(move || theirs.serve(id, op)) {
            self.finish(id, Err(fault(FaultCode::Limit, format!("starting a thread: {error}"))));
        }
    }

    fn serve(&self, id: u64, op: Op) {
        let is_end = matches!(op, Op::Shutdown);
        let reports = matches!(op, Op::Flows);
        // A panic must not leave the controller waiting. Its message is in the log.
        let result = catch_unwind(AssertUnwindSafe(|| self.run(op)));
        let result = result.unwrap_or_else(|_| Err(fault(FaultCode::Internal, "a fault of forkd-net")));
        self.finish(id, result);
        if is_end {
            self.wires.end();
            std::process::exit(0);
        }
        if reports {
            self.report(id);
        }
    }

    fn run(&self, op: Op) -> Result<Answer, Fault> {
        let wires = &self.wires;
        Ok(match op {
            Op::Hello => Answer::Hello {
                protocol: PROTOCOL_VERSION,
                version: env!("CARGO_PKG_VERSION").into(),
                pid: std::process::id(),
            },
            Op::Bind(bind) => {
                wires.bind(bind)?;
                Answer::Done
            }
            Op::SetPolicy { key, policy } => Answer::Reset {
                flows: wires.set_policy(&key, policy)?,
            },
            Op::Mark { key } => Answer::Marked {
                inherited: wires.mark(&key)?,
            },
            Op::Close { key } => {
                wires.close(&key);
                Answer::Done
            }
            Op::Inventory => Answer::Inventory { wires: wires.list() },
            Op::Stats { key } => Answer::Stats(wires.stats(&key)?),
            // The reader of the connection serves the first two, and the thread of this request continues after the others.
            Op::Attach { .. } | Op::Dial { .. } | Op::Flows | Op::Shutdown => Answer::Done,
        })
    }

    /// Turns the connection into a stream to the guest.
    fn dial(&self, id: u64, key: &str, port: u16, lines: Lines) {
        let Some(stream) = lines
            .into_stream()
            .filter(|stream| stream.set_nonblocking(true).is_ok())
        else {
            let message = "dial must be the last line of a connection until it is answered";
            return self.finish(id, Err(fault(FaultCode::BadRequest, message)));
        };
        let caller = Caller { stream, request: id };
        if let Err((_, fault)) = self.wires.call(key, port, caller) {
            self.finish(id, Err(fault));
        }
    }

    /// Sends flow records for as long as the peer takes them.
    fn report(&self, id: u64) {
        while !self.has_ended.load(Ordering::Relaxed) {
            let mut records = self.journal.take(RECORD_PATIENCE);
            while let Some(event) = records.pop_front() {
                let reply = Reply::Event { id, event };
                if !self.send(&reply) {
                    let Reply::Event { event, .. } = reply else { return };
                    records.push_front(event);
                    return self.journal.restore(records);
                }
            }
        }
    }

    fn finish(&self, id: u64, result: Result<Answer, Fault>) {
        self.send(&match result {
            Ok(result) => Reply::Ok { id, result },
            Err(error) => Reply::Err { id, error },
        });
    }

    /// False if the peer has gone, or does not read. The connection is of no use then.
    fn send(&self, reply: &Reply) -> bool {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let is_sent = out.write_all(&lines::line(reply)).is_ok();
        if !is_sent {
            // Half a line may be out. Fails only if the peer has gone.
            let _ = out.shutdown(std::net::Shutdown::Both);
        }
        is_sent
    }
}
