//! The messages between forkd-controller, forkd-jail and forkd-net: one JSON message per line.

mod flow;
mod policy;

pub use flow::{Connection, Direction, FlowRecord, Inherited, Phase, Reason, SyntheticName};
pub use policy::{Policy, Rule, Target, Transport, Verdict};

use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// Raised by one whenever a message changes its meaning; both ends refuse another number.
pub const PROTOCOL_VERSION: u32 = 1;

/// The longest line that either end accepts, in bytes.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// A line to forkd-net.
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "../net/wire.ts")]
pub struct Request {
    #[ts(type = "number")]
    pub id: u64,
    #[serde(flatten)]
    pub op: Op,
}

/// A request to forkd-net. Unless it says otherwise, it answers [`Answer::Done`].
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[serde(tag = "op", rename_all = "snake_case")]
#[ts(export, export_to = "../net/wire.ts")]
pub enum Op {
    /// Answers [`Answer::Hello`].
    Hello,
    /// Hands over the host's end of a VMM's wire: a datagram socket, sent as ancillary data with the first byte of this line.
    /// `key_in_use` if the key has a wire already.
    Attach {
        /// 32 hexadecimal digits.
        key: String,
    },
    /// Begins to serve a wire. Bind before the guest runs, so that the resets of inherited connections reach it first. A
    /// second bind replaces name and policy; this is how a controller adopts a sandbox.
    Bind(Bind),
    /// Replaces the policy, and resets open flows that it does not allow. Answers [`Answer::Reset`].
    SetPolicy { key: String, policy: Policy },
    /// Lists what a fork of this sandbox inherits. Ask after the pause of a branch: connections that ended in the last half
    /// minute are listed too, so the answer includes all that were open in the pause. Answers [`Answer::Marked`].
    Mark { key: String },
    /// Closes a wire for good, and frees all that it holds. Succeeds if the key is unknown.
    Close { key: String },
    /// Connects to a port of the guest. After the answer, the connection carries the bytes of that stream instead of lines.
    Dial { key: String, port: u16 },
    /// Answers [`Answer::Inventory`].
    Inventory,
    /// Answers [`Answer::Stats`].
    Stats { key: String },
    /// Reports every flow from now on as [`Reply::Event`]. A record goes to one connection only.
    Flows,
    /// Ends forkd-net. Sandboxes run on without a network.
    Shutdown,
}

/// The sandbox behind a wire.
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "../net/wire.ts")]
pub struct Bind {
    pub key: String,
    /// The sandbox's name, which flow records show.
    pub sandbox: String,
    pub policy: Policy,
    /// The mark of the snapshot that the sandbox was forked from.
    pub inherited: Option<Inherited>,
}

/// The result of a request.
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[serde(tag = "answer", rename_all = "snake_case")]
#[ts(export, export_to = "../net/wire.ts")]
pub enum Answer {
    Hello {
        protocol: u32,
        version: String,
        /// The process that serves the wires.
        pid: u32,
    },
    Done,
    Reset {
        /// Flows that were reset.
        flows: u32,
    },
    Marked {
        inherited: Inherited,
    },
    Inventory {
        wires: Vec<WireInfo>,
    },
    Stats(WireStats),
}

/// A wire that forkd-net holds.
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[ts(export, export_to = "../net/wire.ts")]
pub struct WireInfo {
    pub key: String,
    /// `None` until the wire is bound.
    pub sandbox: Option<String>,
}

/// Counters of a wire since it was bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "../net/wire.ts")]
pub struct WireStats {
    /// Frames that the guest sent.
    #[ts(type = "number")]
    pub frames: u64,
    /// Frames that were dropped because they are not plain IPv4 or ARP from the guest's own addresses.
    #[ts(type = "number")]
    pub frames_refused: u64,
    /// Flows that the policy or a limit denied.
    #[ts(type = "number")]
    pub flows_denied: u64,
    /// Attempts to connect that were left unanswered for their rate. The guest repeats them.
    #[ts(type = "number")]
    pub flows_delayed: u64,
    /// Flows that were opened, either way.
    #[ts(type = "number")]
    pub flows_opened: u64,
    /// Flows that are open now.
    pub flows_open: u32,
    /// Bytes of payload from the guest in flows that have ended.
    #[ts(type = "number")]
    pub sent_bytes: u64,
    /// Bytes of payload to the guest in flows that have ended.
    #[ts(type = "number")]
    pub received_bytes: u64,
}

/// A line from forkd-net.
#[derive(Debug, Clone, Serialize, Deserialize, TS)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[ts(export, export_to = "../net/wire.ts")]
pub enum Reply {
    Event {
        #[ts(type = "number")]
        id: u64,
        event: FlowRecord,
    },
    Ok {
        #[ts(type = "number")]
        id: u64,
        result: Answer,
    },
    Err {
        #[ts(type = "number")]
        id: u64,
        error: Fault,
    },
}

/// A failure as it crosses the socket.
#[derive(Debug, Clone, Serialize, Deserialize, TS, thiserror::Error)]
#[error("{message}")]
#[ts(export, export_to = "../net/wire.ts")]
pub struct Fault {
    pub code: FaultCode,
    /// The sentence for the caller, with the caller's own values.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "../net/wire.ts")]
pub enum FaultCode {
    BadRequest,
    /// No wire has this key, or it is not bound.
    UnknownKey,
    KeyInUse,
    /// The guest refused the connection.
    Refused,
    /// The guest did not answer in time.
    TimedOut,
    /// A limit of the sandbox or of the process is reached.
    Limit,
    Io,
    /// A fault of forkd-net's own.
    Internal,
}
