//! Records of flows, and the inheritance of a fork.

use super::policy::Transport;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use ts_rs::TS;

/// A flow that was opened, closed or denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "../net/wire.ts")]
pub struct FlowRecord {
    pub sandbox: String,
    /// When it happened, in milliseconds since 1970.
    #[ts(type = "number")]
    pub at_ms: u64,
    pub phase: Phase,
    pub direction: Direction,
    /// `None` for packets that are neither TCP nor UDP.
    pub transport: Option<Transport>,
    /// The name that the guest asked for, if the destination is a name.
    pub name: Option<String>,
    /// The address that the host dialled, or that the guest tried to reach.
    #[ts(type = "string")]
    pub address: Ipv4Addr,
    /// 0 for packets that are neither TCP nor UDP.
    pub port: u16,
    /// The text of the rule that decided; `None` if no rule matched.
    pub rule: Option<String>,
    /// Why the flow was denied, or ended before either side closed it.
    pub reason: Option<Reason>,
    /// Bytes of payload from the guest.
    #[ts(type = "number")]
    pub sent_bytes: u64,
    /// Bytes of payload to the guest.
    #[ts(type = "number")]
    pub received_bytes: u64,
    /// How long the flow was open.
    #[ts(type = "number")]
    pub ms: u64,
    /// Records that were left out before this one, of this sandbox for its rate and of all sandboxes for a full queue.
    #[ts(type = "number")]
    pub lost: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "../net/wire.ts")]
pub enum Phase {
    /// The two sides are connected.
    Opened,
    Closed,
    /// The two sides were never connected. A name that was refused by the resolver is a denied UDP flow to port 53.
    Denied,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "../net/wire.ts")]
pub enum Direction {
    /// The guest connects.
    Out,
    /// The host connects to a port of the guest.
    In,
}

/// Why a flow was denied or ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "../net/wire.ts")]
pub enum Reason {
    /// No rule allows it.
    NoRule,
    DeniedByRule,
    /// The address is private, local or the host's own, and no rule names it.
    ReservedAddress,
    /// Only TCP and UDP can be allowed.
    Protocol,
    /// QUIC hides the name that a rule names.
    Quic,
    /// The TLS client asks for another name than the one it connected to.
    SniMismatch,
    SniMissing,
    /// The TLS client encrypts the name it asks for.
    SniEncrypted,
    /// The first bytes on port 443 are not a TLS ClientHello.
    NotTls,
    /// The host could not resolve the name.
    ResolveFailed,
    Refused,
    TimedOut,
    /// A limit on flows, dials or names is reached.
    Limit,
    /// The policy was changed.
    PolicyChanged,
    /// The connection broke.
    Reset,
    /// forkd-net gave up the sandbox's flows after a fault of its own, or the sandbox ended.
    Ended,
}

/// The inheritance of a fork from the sandbox that its snapshot was taken of. Plain data of at most 256 KiB that stays valid as long as
/// the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "../net/wire.ts")]
pub struct Inherited {
    /// Names that have an address in the guest, oldest first.
    pub names: Vec<SyntheticName>,
    /// Connections that the guest may believe to be open.
    pub connections: Vec<Connection>,
}

/// A name, and the place of its address in the synthetic range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "../net/wire.ts")]
pub struct SyntheticName {
    /// Added to 198.18.0.0.
    pub offset: u32,
    pub name: String,
}

/// A TCP connection of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "../net/wire.ts")]
pub struct Connection {
    pub guest_port: u16,
    #[ts(type = "string")]
    pub address: Ipv4Addr,
    pub port: u16,
    /// The sequence number after the last byte that was sent to the guest.
    pub next_sequence: u32,
}
