//! The guest's datagrams: queries to its resolver, and flows to where the policy allows.

use crate::addresses::{GATEWAY, MTU};
use crate::dns;
use crate::journal::{Carried, Subject};
use crate::limits::{DIAL_PATIENCE, RESOLVER_PATIENCE, UDP_FLOWS_MAX, UDP_IDLE};
use crate::packets::{self, FlowId};
use crate::policy::{Decision, Destination};
use crate::resolve::{Query, Resolved};
use crate::stack::Context;
use crate::tcp::DNS_PORT;
use forkd_protocol::net::{Direction, Reason, Transport};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use smoltcp::wire::{Ipv4Packet, UdpPacket};
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

/// Tokens of UDP flows begin here, and end far below those of TCP flows.
pub const FIRST_TOKEN: u64 = 16;
/// Datagrams that a flow keeps while its name is resolved. Larger ones are lost, as are further ones.
const KEPT_MAX: usize = 4;
const KEPT_BYTES_MAX: usize = 2_048;
/// Datagrams that are taken from a socket before the next one has its turn.
const TURN: usize = 32;
/// IP and UDP headers.
const HEADERS: usize = 28;
/// How often flows are looked at whose time may have come.
const SWEEP: Duration = Duration::from_secs(1);

enum Host {
    Resolving { query: Query, kept: Vec<Vec<u8>> },
    Connected(UdpSocket),
}

struct Flow {
    host: Host,
    token: u64,
    subject: Subject,
    readable: bool,
    since: Instant,
    active: Instant,
    carried: Carried,
}

#[derive(Default)]
pub struct UdpFlows {
    flows: HashMap<FlowId, Flow>,
    by_token: HashMap<u64, FlowId>,
    tokens: u64,
    swept: Option<Instant>,
}

/// Answers a query to the gateway's resolver, and records the name if it is refused. `None` if it is no query.
pub fn answer(context: &mut Context, query: &[u8]) -> Option<Vec<u8>> {
    let answer = dns::answer(query, &context.rules, &mut context.ledger)?;
    if answer.refused.is_some() {
        let subject = Subject {
            name: answer.refused,
            ..subject(GATEWAY, DNS_PORT)
        };
        context.deny(&subject, Reason::NoRule);
    }
    Some(answer.reply)
}

fn subject(address: Ipv4Addr, port: u16) -> Subject {
    Subject {
        direction: Direction::Out,
        transport: Some(Transport::Udp),
        name: None,
        address,
        port,
        rule: None,
    }
}

impl UdpFlows {
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Takes a packet from the guest. `None` if it is no UDP datagram.
    pub fn ingress(&mut self, context: &mut Context, ip: &Ipv4Packet<&[u8]>) -> Option<()> {
        let datagram = UdpPacket::new_checked(ip.payload()).ok()?;
        let id = FlowId {
            guest_port: datagram.src_port(),
            address: ip.dst_addr(),
            port: datagram.dst_port(),
        };
        if id.guest_port == 0 || id.port == 0 {
            return None;
        }
        if (id.address, id.port) == (GATEWAY, DNS_PORT) {
            let reply = answer(context, datagram.payload())?;
            packets::udp(&mut context.output, (GATEWAY, DNS_PORT), id.guest_port, &reply);
            return Some(());
        }
        if !self.flows.contains_key(&id) && !self.admit(context, id) {
            packets::prohibited(&mut context.output, ip);
            return Some(());
        }
        let flow = self.flows.get_mut(&id)?;
        if flow.send(datagram.payload()).is_err() {
            self.close(context, id, Some(Reason::Refused));
        }
        Some(())
    }

    /// Opens a flow. False if it is denied.
    fn admit(&mut self, context: &mut Context, id: FlowId) -> bool {
        let mut subject = subject(id.address, id.port);
        if !context.new_flows.take(Instant::now()) {
            context.deny(&subject, Reason::Limit);
            return false;
        }
        if self.flows.len() >= UDP_FLOWS_MAX {
            let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.active).map(|(id, _)| *id);
            oldest
                .into_iter()
                .for_each(|oldest| self.close(context, oldest, Some(Reason::Limit)));
        }
        self.tokens += 1;
        let token = FIRST_TOKEN + self.tokens;
        match open(context, id, &mut subject, token) {
            Ok(host) => {
                let now = Instant::now();
                let flow = Flow {
                    host,
                    token,
                    subject,
                    readable: false,
                    since: now,
                    active: now,
                    carried: Carried::default(),
                };
                if matches!(flow.host, Host::Connected(_)) {
                    opened(context, &flow.subject);
                }
                self.by_token.insert(token, id);
                self.flows.insert(id, flow);
                true
            }
            Err(reason) => {
                context.deny(&subject, reason);
                false
            }
        }
    }

    pub fn wake(&mut self, token: u64) {
        if let Some(flow) = self.by_token.get(&token).and_then(|id| self.flows.get_mut(id)) {
            flow.readable = true;
        }
    }

    /// Passes on what has arrived. Returns when to do so again without an event: `None` for never.
    pub fn serve(&mut self, context: &mut Context) -> Option<Duration> {
        let now = Instant::now();
        let is_sweep = self.swept.is_none_or(|at| now.duration_since(at) >= SWEEP);
        if is_sweep {
            self.swept = Some(now);
        }
        let due = |flow: &Flow| flow.readable || is_sweep;
        let ids: Vec<FlowId> = self
            .flows
            .iter()
            .filter(|(_, flow)| due(flow))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let Some(flow) = self.flows.get_mut(&id) else { continue };
            let served = match flow.host {
                Host::Resolving { .. } => flow.resolve(context, now),
                Host::Connected(_) => flow.receive(context, id, now),
            };
            match served {
                Ok(()) if now.duration_since(flow.active) > UDP_IDLE => self.close(context, id, None),
                Ok(()) => {}
                Err(reason) => self.close(context, id, Some(reason)),
            }
        }
        let has_work = !context.output.is_full() && self.flows.values().any(|flow| flow.readable);
        match (self.flows.is_empty(), has_work) {
            (true, _) => None,
            (false, true) => Some(Duration::ZERO),
            (false, false) => Some(SWEEP),
        }
    }

    /// Ends flows that the policy does not allow any more. Returns their number.
    pub fn recheck(&mut self, context: &mut Context) -> u32 {
        let mut refused = Vec::new();
        for (id, flow) in &mut self.flows {
            let address = match flow.host {
                Host::Resolving { .. } => None,
                Host::Connected(_) => Some(flow.subject.address),
            };
            if decide(context, &mut flow.subject, address).is_err() {
                refused.push(*id);
            }
        }
        for id in &refused {
            self.close(context, *id, Some(Reason::PolicyChanged));
        }
        refused.len() as u32
    }

    fn close(&mut self, context: &mut Context, id: FlowId, reason: Option<Reason>) {
        let Some(flow) = self.flows.remove(&id) else { return };
        self.by_token.remove(&flow.token);
        context.stats.sent_bytes += flow.carried.sent_bytes;
        context.stats.received_bytes += flow.carried.received_bytes;
        match flow.host {
            Host::Resolving { .. } => context.deny(&flow.subject, reason.unwrap_or(Reason::TimedOut)),
            Host::Connected(_) => {
                let time = flow.since.elapsed();
                context
                    .recorder
                    .closed(&flow.subject, reason, Carried { time, ..flow.carried });
            }
        }
    }

    /// Closes all flows, as the sandbox has ended.
    pub fn end(&mut self, context: &mut Context) {
        let ids: Vec<FlowId> = self.flows.keys().copied().collect();
        ids.into_iter()
            .for_each(|id| self.close(context, id, Some(Reason::Ended)));
    }
}

fn opened(context: &mut Context, subject: &Subject) {
    context.stats.flows_opened += 1;
    context.recorder.opened(subject);
}

fn decide(context: &mut Context, subject: &mut Subject, address: Option<Ipv4Addr>) -> Result<(), Reason> {
    let own = context.own_addresses().map_err(|_| Reason::Limit)?.to_vec();
    let destination = Destination {
        name: subject.name.as_deref(),
        address,
        transport: Transport::Udp,
        port: subject.port,
    };
    let (rule, result) = match context.rules.decide(&destination, &own) {
        Decision::Allow { rule, .. } => (Some(rule), Ok(())),
        Decision::Deny { rule, reason } => (rule, Err(reason)),
    };
    subject.rule = rule;
    result
}

/// Decides about a new flow, and connects a socket for it, or asks for its name.
fn open(context: &mut Context, id: FlowId, subject: &mut Subject, token: u64) -> Result<Host, Reason> {
    let Some(offset) = dns::offset_of(id.address) else {
        decide(context, subject, Some(id.address))?;
        return connect(context, id.address, id.port, token);
    };
    subject.name = Some(context.ledger.name(offset).ok_or(Reason::NoRule)?);
    decide(context, subject, None)?;
    Ok(Host::Resolving {
        query: ask(context, subject, token, 0)?,
        kept: Vec::new(),
    })
}

fn ask(context: &Context, subject: &Subject, token: u64, turn: usize) -> Result<Query, Reason> {
    let resolvers = &context.resolvers;
    let resolver = resolvers
        .get(turn % resolvers.len().max(1))
        .ok_or(Reason::ResolveFailed)?;
    let name = subject.name.as_deref().unwrap_or_default();
    let query = Query::send(name, *resolver).map_err(|_| Reason::ResolveFailed)?;
    context.watch(&query, token).map_err(|_| Reason::Limit)?;
    Ok(query)
}

fn connect(context: &Context, address: Ipv4Addr, port: u16, token: u64) -> Result<Host, Reason> {
    let connect = || -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_nonblocking(true)?;
        socket.connect((address, port))?;
        context.watch(&socket, token)?;
        Ok(socket)
    };
    connect().map(Host::Connected).map_err(|_| Reason::Limit)
}

impl Flow {
    fn send(&mut self, payload: &[u8]) -> rustix::io::Result<()> {
        self.active = Instant::now();
        match &mut self.host {
            Host::Resolving { kept, .. } => {
                if kept.len() < KEPT_MAX && payload.len() <= KEPT_BYTES_MAX {
                    kept.push(payload.to_vec());
                }
                Ok(())
            }
            Host::Connected(socket) => {
                match rustix::net::send(&*socket, payload, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                    Ok(count) => self.carried.sent_bytes += count as u64,
                    // A datagram for which there is no room is lost, as anywhere.
                    Err(Errno::WOULDBLOCK | Errno::INTR | Errno::MSGSIZE | Errno::NOBUFS) => {}
                    Err(error) => return Err(error),
                }
                Ok(())
            }
        }
    }

    fn resolve(&mut self, context: &mut Context, now: Instant) -> Result<(), Reason> {
        self.readable = false;
        let waited = now.duration_since(self.since);
        let Host::Resolving { query, kept } = &mut self.host else {
            return Ok(());
        };
        match query.receive() {
            Some(Resolved::Addresses(addresses)) => {
                let address = *addresses.first().ok_or(Reason::ResolveFailed)?;
                self.subject.address = address;
                let kept = std::mem::take(kept);
                decide(context, &mut self.subject, Some(address))?;
                self.host = connect(context, address, self.subject.port, self.token)?;
                opened(context, &self.subject);
                kept.iter()
                    .try_for_each(|payload| self.send(payload))
                    .map_err(|_| Reason::Refused)
            }
            Some(Resolved::Nothing) => Err(Reason::ResolveFailed),
            None if waited > DIAL_PATIENCE => Err(Reason::TimedOut),
            None => {
                let turn = (waited.as_secs() / RESOLVER_PATIENCE.as_secs()) as usize;
                if turn > 0 && waited.as_secs().is_multiple_of(RESOLVER_PATIENCE.as_secs()) {
                    *query = ask(context, &self.subject, self.token, turn)?;
                }
                Ok(())
            }
        }
    }

    fn receive(&mut self, context: &mut Context, id: FlowId, now: Instant) -> Result<(), Reason> {
        let Host::Connected(socket) = &self.host else {
            return Ok(());
        };
        let mut buffer = [0; MTU];
        for _ in 0..TURN {
            if context.output.is_full() || !self.readable {
                break;
            }
            match rustix::net::recv(socket, &mut buffer[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
                // A datagram that does not fit the wire is lost.
                Ok((_, length)) if length > MTU - HEADERS => {}
                Ok((length, _)) => {
                    packets::udp(
                        &mut context.output,
                        (id.address, id.port),
                        id.guest_port,
                        &buffer[..length],
                    );
                    self.carried.received_bytes += length as u64;
                    self.active = now;
                }
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => self.readable = false,
                Err(_) => return Err(Reason::Refused),
            }
        }
        Ok(())
    }
}
