//! Decides what a sandbox may reach.

use crate::addresses::{is_reserved, names_reserved};
use forkd_protocol::net::{Fault, FaultCode, Policy, Reason, Rule, Target, Transport, Verdict};
use smoltcp::wire::Ipv4Cidr;
use std::net::Ipv4Addr;

const RULES_MAX: usize = 1_000;
const TEXT_BYTES_MAX: usize = 300;
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// The destination of a flow.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// The name, if the guest connects to the address of a name.
    pub name: Option<&'a str>,
    /// The address on the internet; `None` until the name is resolved.
    pub address: Option<Ipv4Addr>,
    pub transport: Transport,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allow {
        /// The text of the rule.
        rule: String,
        /// True if the rule allows a name rather than everything, so that a TLS client must ask for that name.
        by_name: bool,
    },
    Deny {
        rule: Option<String>,
        reason: Reason,
    },
}

#[derive(Debug)]
enum To {
    Any,
    Name(String),
    /// A suffix, with the dot that it begins with.
    Below(String),
    Range(Ipv4Cidr),
}

#[derive(Debug)]
struct Checked {
    rule: Rule,
    to: To,
}

/// A policy whose rules are well formed. The default denies everything.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<Checked>,
}

impl Rules {
    /// Checks a policy. `BadRequest` names the rule that is wrong.
    pub fn new(policy: Policy) -> Result<Rules, Fault> {
        if policy.rules.len() > RULES_MAX {
            let message = format!("a policy has at most {RULES_MAX} rules, not {}", policy.rules.len());
            return Err(bad(message));
        }
        let rules = policy.rules.into_iter().map(Checked::new);
        Ok(Rules {
            rules: rules.collect::<Result<_, _>>()?,
        })
    }

    /// True if a flow to `name` can be allowed, on some port: then the name gets an address.
    pub fn may_resolve(&self, name: &str) -> bool {
        let about = |verdict| {
            let rules = self.rules.iter();
            rules.filter(move |rule| rule.rule.verdict == verdict && rule.matches(name))
        };
        about(Verdict::Allow).any(|allow| !about(Verdict::Deny).any(|deny| deny.shadows(allow)))
    }

    /// Decides about a flow. `own` are the addresses of the host.
    pub fn decide(&self, to: &Destination<'_>, own: &[Ipv4Addr]) -> Decision {
        if let Some(rule) = self.of(Verdict::Deny, to).find(|rule| rule.covers(to)) {
            return Decision::Deny {
                rule: Some(rule.rule.text.clone()),
                reason: Reason::DeniedByRule,
            };
        }
        // A rule that allows everything asks nothing of the client, so it goes before one that allows a name.
        let allowing = self.of(Verdict::Allow, to).filter(|rule| rule.allows(to));
        let Some(rule) = allowing.min_by_key(|rule| rule.is_by_name()) else {
            return deny(Reason::NoRule);
        };
        let is_closed = |address: &Ipv4Addr| is_reserved(*address) || own.contains(address);
        if let Some(address) = to.address.filter(is_closed) {
            let opens = |rule: &Checked| matches!(&rule.to, To::Range(range) if names_reserved(range) && range.contains_addr(&address));
            let Some(opener) = self.of(Verdict::Allow, to).find(|rule| opens(rule)) else {
                return deny(Reason::ReservedAddress);
            };
            // A literal address is allowed by the rule that opens it, whichever else would match.
            let rule = if to.name.is_none() { opener } else { rule };
            return rule.allow(to);
        }
        rule.allow(to)
    }

    /// The rules of one verdict for the port and the transport of a destination.
    fn of(&self, verdict: Verdict, to: &Destination<'_>) -> impl Iterator<Item = &Checked> {
        let (transport, port) = (to.transport, to.port);
        self.rules.iter().filter(move |Checked { rule, .. }| {
            let ports =
                rule.ports.is_empty() || rule.ports.iter().any(|(from, up_to)| (*from..=*up_to).contains(&port));
            rule.verdict == verdict && rule.transport.is_none_or(|only| only == transport) && ports
        })
    }
}

impl Checked {
    fn new(rule: Rule) -> Result<Checked, Fault> {
        let quoted = rule.text.chars().take(TEXT_BYTES_MAX).collect::<String>();
        let wrong = |what: &str| bad(format!("rule {quoted:?}: {what}"));
        if rule.text.len() > TEXT_BYTES_MAX {
            return Err(wrong("its text is too long"));
        }
        if rule.ports.iter().any(|(from, up_to)| from > up_to) {
            return Err(wrong("a range of ports ends before it begins"));
        }
        let to = match &rule.to {
            Target::Any => To::Any,
            Target::Name { name } if is_name(name) => To::Name(name.clone()),
            Target::Below { name } if is_name(name) => To::Below(format!(".{name}")),
            Target::Name { .. } | Target::Below { .. } => {
                return Err(wrong("its name is not a host name in lower case"));
            }
            Target::Cidr { cidr } => To::Range(
                cidr.parse()
                    .map_err(|()| wrong("its range is not such as 192.0.2.0/24"))?,
            ),
        };
        Ok(Checked { rule, to })
    }

    fn is_by_name(&self) -> bool {
        matches!(self.to, To::Name(_) | To::Below(_))
    }

    fn matches(&self, name: &str) -> bool {
        match &self.to {
            To::Any => true,
            To::Name(it) => it == name,
            To::Below(suffix) => name.len() > suffix.len() && name.ends_with(suffix.as_str()),
            To::Range(_) => false,
        }
    }

    /// True if this rule, which denies, is about the destination's name or its address.
    fn covers(&self, to: &Destination<'_>) -> bool {
        let named = to.name.is_some_and(|name| self.matches(name));
        named || matches!(self.to, To::Any) || self.contains(to.address)
    }

    /// True if this rule, which allows, is about the destination as the guest has named it.
    fn allows(&self, to: &Destination<'_>) -> bool {
        match to.name {
            Some(name) => self.matches(name),
            None => matches!(self.to, To::Any) || self.contains(to.address),
        }
    }

    /// True if this rule, which denies, leaves nothing of a rule about the same name.
    fn shadows(&self, allow: &Checked) -> bool {
        let all_ports = self.rule.ports.is_empty() || self.rule.ports == allow.rule.ports;
        all_ports && (self.rule.transport.is_none() || self.rule.transport == allow.rule.transport)
    }

    fn contains(&self, address: Option<Ipv4Addr>) -> bool {
        matches!((&self.to, address), (To::Range(range), Some(address)) if range.contains_addr(&address))
    }

    fn allow(&self, to: &Destination<'_>) -> Decision {
        let by_name = self.is_by_name();
        if by_name && to.transport == Transport::Udp && to.port == 443 {
            return Decision::Deny {
                rule: Some(self.rule.text.clone()),
                reason: Reason::Quic,
            };
        }
        Decision::Allow {
            rule: self.rule.text.clone(),
            by_name,
        }
    }
}

fn deny(reason: Reason) -> Decision {
    Decision::Deny { rule: None, reason }
}

fn bad(message: String) -> Fault {
    Fault {
        code: FaultCode::BadRequest,
        message,
    }
}

/// True for a host name in lower case: labels of letters, digits, hyphens and underscores, without a dot at its end.
pub fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
        (1..=LABEL_BYTES_MAX).contains(&label.len()) && label.bytes().all(plain)
    };
    name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests;
