//! The guest's TCP connections. Each ends in a socket of smoltcp; the bytes continue through a socket of the host.
//!
//! A flow has a socket set of its own, so that a packet costs the same with one flow and with hundreds: smoltcp searches a set
//! socket by socket. The guest's SYN is answered when the host is connected, so the guest sees a refusal as a refusal.

mod flow;

use crate::addresses::{GATEWAY, GUEST, PREFIX, SYNTHETIC};
use crate::dns;
use crate::host::{self, Caller, Host};
use crate::journal::Subject;
use crate::limits::{DIAL_PATIENCE, DIALS_MAX, RESOLVER_PATIENCE, TCP_FLOWS_MAX};
use crate::link::Port;
use crate::packets::{self, FlowId};
use crate::policy::{Decision, Destination};
use crate::resolve::{Query, Resolved};
use crate::stack::Context;
use flow::Flow;
use forkd_linux_sys::random;
use forkd_protocol::net::{Connection, Direction, Reason, Transport};
use smoltcp::iface::{Config, Interface, PollResult};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr, Ipv4Packet, TcpControl, TcpPacket};
use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

pub const DNS_PORT: u16 = 53;
/// Ports of the gateway from which it connects to the guest.
const CALLING_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

pub struct TcpFlows {
    interface: Interface,
    flows: HashMap<FlowId, Flow>,
    /// Flows that have something to do.
    ready: Vec<FlowId>,
    /// Each flow has at most one timer.
    timers: BTreeSet<(Instant, FlowId)>,
    last_calling_port: u16,
}

impl TcpFlows {
    pub fn new(context: &mut Context) -> TcpFlows {
        let mut seed = [0; 8];
        // The kernel fills eight bytes at once, or has no random numbers at all.
        random::fill(&mut seed).expect("random bytes");
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = u64::from_le_bytes(seed);
        let mut port = Port {
            packet: None,
            output: &mut context.output,
        };
        let mut interface = Interface::new(config, &mut port, Instant::now());
        interface.update_ip_addrs(|all| {
            all.push(IpCidr::new(GATEWAY.into(), PREFIX))
                .expect("room for an address")
        });
        interface
            .routes_mut()
            .add_default_ipv4_route(GATEWAY)
            .expect("room for a route");
        interface.set_any_ip(true);
        TcpFlows {
            interface,
            flows: HashMap::new(),
            ready: Vec::new(),
            timers: BTreeSet::new(),
            last_calling_port: *CALLING_PORTS.start()
                + u16::from_le_bytes([seed[0], seed[1]]) % CALLING_PORTS.len() as u16,
        }
    }

    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Takes a packet from the guest. `None` if it is no TCP segment.
    pub fn ingress(&mut self, context: &mut Context, ip: &Ipv4Packet<&[u8]>, bytes: &[u8]) -> Option<()> {
        let segment = TcpPacket::new_checked(ip.payload()).ok()?;
        let id = FlowId {
            guest_port: segment.src_port(),
            address: ip.dst_addr(),
            port: segment.dst_port(),
        };
        if id.guest_port == 0 || id.port == 0 {
            return None;
        }
        if !self.flows.contains_key(&id) && !self.admit(context, id, &segment) {
            return Some(());
        }
        let flow = self.flows.get_mut(&id)?;
        let before = context.output.len();
        let mut port = Port {
            packet: Some(bytes),
            output: &mut context.output,
        };
        self.interface
            .poll_ingress_single(Instant::now(), &mut port, &mut flow.sockets);
        flow.observe(context, before);
        self.wake(id, false, false);
        Some(())
    }

    /// Opens a flow for a segment that belongs to none. False if there is no flow then.
    fn admit(&mut self, context: &mut Context, id: FlowId, segment: &TcpPacket<&[u8]>) -> bool {
        if segment.rst() {
            return false;
        }
        if !segment.syn() || segment.ack() {
            // The guest believes in a connection that is not there.
            let sequence = segment.ack_number().0 as u32;
            packets::tcp(&mut context.output, id, TcpControl::Rst, sequence, None);
            return false;
        }
        if !context.new_flows.take(std::time::Instant::now()) {
            // The guest sends its SYN again later.
            context.stats.flows_delayed += 1;
            return false;
        }
        match self.open(context, id) {
            Ok(flow) => {
                self.flows.insert(id, flow);
                true
            }
            Err((subject, reason)) => {
                context.deny(&subject, reason);
                let next = (segment.seq_number() + segment.segment_len()).0 as u32;
                packets::tcp(&mut context.output, id, TcpControl::Rst, 0, Some(next));
                false
            }
        }
    }

    /// Decides about a new flow, and begins to dial.
    fn open(&mut self, context: &mut Context, id: FlowId) -> Result<Flow, (Subject, Reason)> {
        let mut subject = Subject {
            direction: Direction::Out,
            transport: Some(Transport::Tcp),
            name: None,
            address: id.address,
            port: id.port,
            rule: None,
        };
        let dialling = self.flows.values().filter(|flow| flow.host.is_dialling()).count();
        if self.flows.len() >= TCP_FLOWS_MAX || dialling >= DIALS_MAX {
            return Err((subject, Reason::Limit));
        }
        if (id.address, id.port) == (GATEWAY, DNS_PORT) {
            let mut flow = Flow::listening(id, subject, Host::Names, self.flows.len());
            flow.until = Some(Instant::now() + DIAL_PATIENCE.into());
            return Ok(flow);
        }
        if SYNTHETIC.contains_addr(&id.address) {
            let offset = dns::offset_of(id.address).unwrap_or_default();
            let Some(name) = context.ledger.name(offset) else {
                return Err((subject, Reason::NoRule));
            };
            subject.name = Some(name);
        }
        let mut flow = Flow::listening(id, subject, Host::Nothing, self.flows.len());
        let name = flow.subject.name.clone();
        let address = name.is_none().then_some(id.address);
        flow.decide(context, address)
            .map_err(|reason| (flow.subject.clone(), reason))?;
        let begun = match name {
            Some(name) => flow.ask(context, &name),
            None => {
                flow.candidates = vec![id.address];
                flow.dial_next(context)
            }
        };
        begun.map_err(|reason| (flow.subject.clone(), reason))?;
        flow.until = Some(Instant::now() + DIAL_PATIENCE.into());
        Ok(flow)
    }

    /// Connects to a port of the guest for a caller of the host.
    pub fn call(&mut self, port: u16, caller: Caller) {
        if self.flows.len() >= TCP_FLOWS_MAX || port == 0 {
            let reason = if port == 0 { Reason::Refused } else { Reason::Limit };
            return caller.refuse(reason);
        }
        let id = loop {
            let next = self.last_calling_port.checked_add(1);
            self.last_calling_port = next.unwrap_or(*CALLING_PORTS.start());
            let id = FlowId {
                guest_port: port,
                address: GATEWAY,
                port: self.last_calling_port,
            };
            if !self.flows.contains_key(&id) {
                break id;
            }
        };
        let flow = Flow::calling(&mut self.interface, id, caller, self.flows.len());
        self.flows.insert(id, flow);
        self.wake(id, false, false);
    }

    /// Ends flows that the policy does not allow any more. Returns their number.
    pub fn recheck(&mut self, context: &mut Context) -> u32 {
        let mut ended = 0;
        let out = |flow: &Flow| flow.subject.direction == Direction::Out && !matches!(flow.host, Host::Names);
        let ids: Vec<FlowId> = self
            .flows
            .iter()
            .filter(|(_, flow)| out(flow))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let Some(flow) = self.flows.get_mut(&id) else { continue };
            let is_resolved = flow.subject.name.is_none() || !matches!(flow.host, Host::Resolving(_));
            let address = is_resolved.then_some(flow.subject.address);
            if flow.decide(context, address).is_err() {
                flow.abort(Reason::PolicyChanged);
                ended += 1;
            }
            self.wake(id, false, false);
        }
        ended
    }

    /// Notes that a flow has something to do. `readable` and `writable` are about the host's socket.
    pub fn wake(&mut self, id: FlowId, readable: bool, writable: bool) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.readable |= readable;
        flow.writable |= writable;
        if !std::mem::replace(&mut flow.is_queued, true) {
            self.ready.push(id);
        }
    }

    /// Moves bytes for the flows that have work. Returns when to do so again without an event: `None` for never.
    pub fn serve(&mut self, context: &mut Context) -> Option<std::time::Duration> {
        let now = Instant::now();
        while let Some((_, id)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.set_timer(id, None);
            self.wake(id, false, false);
        }
        for id in std::mem::take(&mut self.ready) {
            self.serve_flow(context, id, now);
        }
        if !self.ready.is_empty() {
            // A full wire leaves nothing to do before it takes frames again.
            return (!context.output.is_full()).then_some(std::time::Duration::ZERO);
        }
        let (at, _) = self.timers.first()?;
        Some((*at - now).into())
    }

    fn serve_flow(&mut self, context: &mut Context, id: FlowId, now: Instant) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.is_queued = false;
        flow.advance(context, now);
        let before = context.output.len();
        let mut port = Port {
            packet: None,
            output: &mut context.output,
        };
        while self.interface.poll_egress(now, &mut port, &mut flow.sockets) == PollResult::SocketStateChanged {}
        flow.observe(context, before);
        // A socket whose answer to the SYN is held back always says that it has something to send.
        let is_held = flow.host.is_dialling();
        let again = self.interface.poll_at(now, &flow.sockets).filter(|_| !is_held);
        let due = again.is_some_and(|at| at <= now);
        let alarm = again.into_iter().chain(flow.alarm()).min();
        if flow.is_over() && !due {
            self.set_timer(id, None);
            let flow = self.flows.remove(&id).expect("it was found above");
            flow.close(context);
        } else if due || flow.has_work() {
            self.wake(id, false, false);
        } else {
            self.set_timer(id, alarm);
        }
    }

    fn set_timer(&mut self, id: FlowId, at: Option<Instant>) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let before = std::mem::replace(&mut flow.timer, at);
        if before != at {
            before.map(|before| self.timers.remove(&(before, id)));
            at.map(|at| self.timers.insert((at, id)));
        }
    }

    /// Closes all flows, as the sandbox has ended.
    pub fn end(&mut self, context: &mut Context) {
        for (_, mut flow) in self.flows.drain() {
            flow.abort(Reason::Ended);
            flow.close(context);
        }
    }
}
