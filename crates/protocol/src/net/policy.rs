//! The policy of a sandbox: a flat list of rules.

use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// The policy of a sandbox. A rule that denies wins over every rule that allows, and what no rule allows is denied, so that
/// an empty list closes the network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "../net/wire.ts")]
pub struct Policy {
    /// The rules, at most 1,000.
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "../net/wire.ts")]
pub struct Rule {
    /// The rule in the words of its author, at most 300 bytes. Flow records show it.
    pub text: String,
    pub verdict: Verdict,
    pub to: Target,
    /// Ranges of ports, both ends included. Empty: all ports.
    pub ports: Vec<(u16, u16)>,
    /// `None`: both.
    pub transport: Option<Transport>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "../net/wire.ts")]
pub enum Verdict {
    Allow,
    Deny,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[ts(export, export_to = "../net/wire.ts")]
pub enum Target {
    /// Every name and every public address.
    Any,
    /// A single name, in lower-case ASCII.
    Name { name: String },
    /// The names below this one, at any depth, but not the name itself.
    Below { name: String },
    /// IPv4 addresses, such as `192.0.2.0/24`. A reserved address is allowed only by a range that lies within the reserved
    /// one, or that is this single address.
    Cidr { cidr: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "../net/wire.ts")]
pub enum Transport {
    Tcp,
    Udp,
}
