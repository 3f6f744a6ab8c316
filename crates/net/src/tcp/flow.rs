//! A TCP flow, from the decision about it to its record.

use super::*;
use crate::client_hello::{self, Opening};
use crate::host::Stream;
use crate::journal::Carried;
use crate::limits::{HELLO_PATIENCE, buffer_bytes, is_crowded};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{IpEndpoint, IpListenEndpoint};

const HTTPS_PORT: u16 = 443;
/// Resolvers that are asked for a name, one after the other.
const QUERIES_MAX: usize = 3;

pub struct Flow {
    id: FlowId,
    pub sockets: SocketSet<'static>,
    handle: SocketHandle,
    pub host: Host,
    pub subject: Subject,
    /// Addresses that are still to be tried.
    pub candidates: Vec<Ipv4Addr>,
    queries: usize,
    /// The server name that a TLS client must ask for. `None`: nothing is asked of the client, or it has answered.
    awaited_name: Option<String>,
    hello_since: Option<Instant>,
    /// When the flow's present step has taken too long.
    pub until: Option<Instant>,
    /// When the flow's timer rings.
    pub timer: Option<Instant>,
    pub is_queued: bool,
    pub readable: bool,
    pub writable: bool,
    /// True if the guest has said that it will send no more.
    has_guest_ended: bool,
    is_shut: bool,
    /// True if the host's connection is broken: what it sent before goes to the guest, and then a reset.
    is_broken: bool,
    is_open: bool,
    /// True if the rule that allows the flow allows a name.
    is_by_name: bool,
    /// True if the flow has small buffers.
    is_crowded: bool,
    slot: Option<usize>,
    next_sequence: Option<u32>,
    since: Instant,
    carried: Carried,
    reason: Option<Reason>,
}

impl Flow {
    /// A flow whose SYN is about to be given to its socket.
    pub fn listening(id: FlowId, subject: Subject, host: Host, flows_open: usize) -> Flow {
        let mut socket = new_socket(flows_open);
        socket.pause_synack(true);
        let endpoint = IpListenEndpoint {
            addr: Some(id.address.into()),
            port: id.port,
        };
        socket
            .listen(endpoint)
            .expect("a new socket, and a port that is not zero");
        Flow::new(id, subject, host, socket, flows_open)
    }

    /// A flow that connects to the guest.
    pub fn calling(interface: &mut Interface, id: FlowId, caller: Caller, flows_open: usize) -> Flow {
        let mut socket = new_socket(flows_open);
        let guest = IpEndpoint::new(GUEST.into(), id.guest_port);
        let gateway = IpEndpoint::new(id.address.into(), id.port);
        socket
            .connect(interface.context(), guest, gateway)
            .expect("a new socket, and ports that are not zero");
        let subject = Subject {
            direction: Direction::In,
            transport: Some(Transport::Tcp),
            name: None,
            address: GUEST,
            port: id.guest_port,
            rule: None,
        };
        let mut flow = Flow::new(id, subject, Host::Accepting(caller), socket, flows_open);
        flow.until = Some(Instant::now() + DIAL_PATIENCE.into());
        flow
    }

    fn new(id: FlowId, subject: Subject, host: Host, socket: Socket<'static>, flows_open: usize) -> Flow {
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Flow {
            id,
            sockets,
            handle,
            host,
            subject,
            candidates: Vec::new(),
            queries: 0,
            awaited_name: None,
            hello_since: None,
            until: None,
            timer: None,
            is_queued: false,
            readable: false,
            writable: false,
            has_guest_ended: false,
            is_shut: false,
            is_broken: false,
            is_open: false,
            is_by_name: false,
            is_crowded: is_crowded(flows_open),
            slot: None,
            next_sequence: None,
            since: Instant::now(),
            carried: Carried::default(),
            reason: None,
        }
    }

    /// Asks the policy about this flow. `address` is `None` as long as its name is not resolved.
    pub fn decide(&mut self, context: &mut Context, address: Option<Ipv4Addr>) -> Result<(), Reason> {
        let destination = Destination {
            name: self.subject.name.as_deref(),
            address,
            transport: Transport::Tcp,
            port: self.subject.port,
        };
        let own = context.own_addresses().map_err(|_| Reason::Limit)?.to_vec();
        match context.rules.decide(&destination, &own) {
            Decision::Allow { rule, by_name } => {
                self.subject.rule = Some(rule);
                if !self.is_open {
                    self.is_by_name = by_name;
                    self.awaited_name = self.subject.name.clone().filter(|_| by_name);
                } else if by_name && !self.is_by_name {
                    // The name that this flow's client asked for has not been checked.
                    return Err(Reason::PolicyChanged);
                }
                Ok(())
            }
            Decision::Deny { rule, reason } => {
                self.subject.rule = rule;
                Err(reason)
            }
        }
    }

    /// Asks the next resolver for the flow's name.
    pub fn ask(&mut self, context: &Context, name: &str) -> Result<(), Reason> {
        let count = context.resolvers.len();
        let resolver = (count > 0 && self.queries < QUERIES_MAX).then(|| context.resolvers[self.queries % count]);
        self.queries += 1;
        let query = resolver
            .and_then(|resolver| Query::send(name, resolver).ok())
            .ok_or(Reason::ResolveFailed)?;
        context.watch(&query, self.id.token()).map_err(|_| Reason::Limit)?;
        self.host = Host::Resolving(query);
        self.readable = false;
        Ok(())
    }

    /// Dials the next address that the policy allows.
    pub fn dial_next(&mut self, context: &mut Context) -> Result<(), Reason> {
        let mut last = self.reason.take().unwrap_or(Reason::Refused);
        while !self.candidates.is_empty() {
            let address = self.candidates.remove(0);
            self.subject.address = address;
            if let Err(reason) = self.decide(context, Some(address)) {
                last = reason;
                continue;
            }
            let Ok(socket) = host::dial(address, self.subject.port, self.is_crowded) else {
                last = Reason::Refused;
                continue;
            };
            context.watch(&socket, self.id.token()).map_err(|_| Reason::Limit)?;
            (self.readable, self.writable) = (false, false);
            self.host = Host::Dialling(socket);
            return Ok(());
        }
        Err(last)
    }

    fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    /// Follows the sequence numbers, which smoltcp keeps to itself, in the frames that it has written.
    pub fn observe(&mut self, context: &mut Context, before: usize) {
        for bytes in context.output.since(before) {
            let Ok(ip) = Ipv4Packet::new_checked(bytes) else {
                continue;
            };
            let Ok(segment) = TcpPacket::new_checked(ip.payload()) else {
                continue;
            };
            let end = (segment.seq_number() + segment.segment_len()).0 as u32;
            let is_later = self
                .next_sequence
                .is_none_or(|known| (end.wrapping_sub(known) as i32) > 0);
            if is_later && !segment.rst() {
                self.next_sequence = Some(end);
            }
        }
        let Some(next_sequence) = self.next_sequence else {
            return;
        };
        match self.slot {
            Some(slot) => context.ledger.sent(slot, next_sequence),
            None => {
                self.slot = context.ledger.opened(&Connection {
                    guest_port: self.id.guest_port,
                    address: self.id.address,
                    port: self.id.port,
                    next_sequence,
                });
            }
        }
    }

    /// Does what the state of both sides allows.
    pub fn advance(&mut self, context: &mut Context, now: Instant) {
        // A guest that gives up while its SYN is unanswered sends its socket back to listening.
        let is_given_up = self.socket().state() == State::Listen && self.since < now;
        let step = match is_given_up {
            true => Err(Reason::Reset),
            false => self.step(context, now),
        };
        if let Err(reason) = step {
            self.abort(reason);
        }
    }

    fn step(&mut self, context: &mut Context, now: Instant) -> Result<(), Reason> {
        if matches!(self.host, Host::Resolving(_)) {
            self.resolve(context, now)?;
        }
        if matches!(self.host, Host::Dialling(_)) {
            self.connect(context)?;
        }
        if matches!(self.host, Host::Accepting(_)) {
            self.accept(context)?;
        }
        if self.until.is_some_and(|until| until <= now) && !self.is_open {
            return Err(Reason::TimedOut);
        }
        match &self.host {
            Host::Names => self.serve_names(context),
            Host::Connected(_) => {
                self.screen(now)?;
                self.pump()
            }
            _ => Ok(()),
        }
    }

    fn resolve(&mut self, context: &mut Context, now: Instant) -> Result<(), Reason> {
        let Host::Resolving(query) = &self.host else {
            return Ok(());
        };
        match query.receive() {
            Some(Resolved::Addresses(addresses)) => {
                self.candidates = addresses;
                self.dial_next(context)
            }
            Some(Resolved::Nothing) => Err(Reason::ResolveFailed),
            None if now >= self.next_query() => {
                let name = self.subject.name.clone().unwrap_or_default();
                self.ask(context, &name)
            }
            None => Ok(()),
        }
    }

    fn connect(&mut self, context: &mut Context) -> Result<(), Reason> {
        if !self.writable {
            return Ok(());
        }
        let Host::Dialling(socket) = std::mem::replace(&mut self.host, Host::Nothing) else {
            return Ok(());
        };
        match host::dialled(&socket) {
            Ok(()) => {
                self.host = Host::Connected(Stream::new(socket));
                self.open(context);
                Ok(())
            }
            Err(error) => {
                let timed_out = error.kind() == std::io::ErrorKind::TimedOut;
                self.reason = Some(if timed_out { Reason::TimedOut } else { Reason::Refused });
                self.dial_next(context)
            }
        }
    }

    fn accept(&mut self, context: &mut Context) -> Result<(), Reason> {
        match self.socket().state() {
            State::SynSent | State::SynReceived => return Ok(()),
            State::Closed => return Err(Reason::Refused),
            _ => {}
        }
        let Host::Accepting(caller) = std::mem::replace(&mut self.host, Host::Nothing) else {
            return Ok(());
        };
        context
            .watch(&caller.stream, self.id.token())
            .map_err(|_| Reason::Limit)?;
        self.host = Host::Connected(caller.accept().map_err(|_| Reason::Reset)?);
        (self.readable, self.writable) = (true, true);
        self.open(context);
        Ok(())
    }

    fn open(&mut self, context: &mut Context) {
        self.sockets.get_mut::<Socket>(self.handle).pause_synack(false);
        self.is_open = true;
        self.until = None;
        context.stats.flows_opened += 1;
        context.recorder.opened(&self.subject);
    }

    /// Lets a client that must name its server say nothing to it before it has done so rightly.
    fn screen(&mut self, now: Instant) -> Result<(), Reason> {
        let Some(name) = self.awaited_name.clone() else {
            return Ok(());
        };
        let is_https = self.subject.port == HTTPS_PORT;
        let socket = self.sockets.get_mut::<Socket>(self.handle);
        // The buffer is in one piece, because nothing has been taken from it yet.
        let bytes = socket.peek(client_hello::HELLO_BYTES_MAX).unwrap_or_default();
        match client_hello::read(bytes) {
            Opening::Incomplete if bytes.is_empty() => return Ok(()),
            Opening::Incomplete => {
                let since = *self.hello_since.get_or_insert(now);
                self.until = Some(since + HELLO_PATIENCE.into());
                return if self.until <= Some(now) {
                    Err(Reason::TimedOut)
                } else {
                    Ok(())
                };
            }
            Opening::NotTls if is_https => return Err(Reason::NotTls),
            Opening::NotTls => {}
            Opening::Malformed => return Err(Reason::NotTls),
            Opening::Hello { is_encrypted: true, .. } => return Err(Reason::SniEncrypted),
            Opening::Hello { server_name: None, .. } => return Err(Reason::SniMissing),
            Opening::Hello {
                server_name: Some(asked),
                ..
            } if asked != name => return Err(Reason::SniMismatch),
            Opening::Hello { .. } => {}
        }
        (self.awaited_name, self.until) = (None, None);
        Ok(())
    }

    /// Moves bytes both ways until one side has no more or no room.
    fn pump(&mut self) -> Result<(), Reason> {
        let Host::Connected(stream) = &self.host else {
            return Ok(());
        };
        let socket = self.sockets.get_mut::<Socket>(self.handle);
        while self.writable && !self.is_broken && self.awaited_name.is_none() && socket.can_recv() {
            let written = socket.recv(|bytes| match stream.write(bytes) {
                Ok(Some(count)) => (count, Ok(count)),
                Ok(None) => (0, Ok(0)),
                Err(error) => (0, Err(error)),
            });
            match written {
                Ok(Ok(0)) => self.writable = false,
                Ok(Ok(count)) => self.carried.sent_bytes += count as u64,
                // The socket may still hold what its peer has sent.
                Ok(Err(_)) => (self.is_broken, self.readable) = (true, true),
                Err(_) => return Err(Reason::Reset),
            }
        }
        while self.readable && socket.can_send() {
            let mut is_end = false;
            let read = socket.send(|room| match stream.read(room) {
                Ok(Some(count)) => {
                    is_end = count == 0;
                    (count, Ok(count))
                }
                Ok(None) => (0, Ok(0)),
                Err(error) => (0, Err(error)),
            });
            match read {
                Ok(Ok(0)) => self.readable = false,
                Ok(Ok(count)) => self.carried.received_bytes += count as u64,
                Ok(Err(_)) => (self.is_broken, self.readable) = (true, false),
                Err(_) => return Err(Reason::Reset),
            }
            if is_end && !self.is_broken {
                socket.close();
            }
        }
        if self.is_broken {
            let has_all = !self.readable && socket.send_queue() == 0;
            return if has_all { Err(Reason::Reset) } else { Ok(()) };
        }
        self.has_guest_ended |= matches!(
            socket.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        if self.has_guest_ended && !socket.can_recv() && !std::mem::replace(&mut self.is_shut, true) {
            stream.finish();
        }
        Ok(())
    }

    /// Answers queries that come over TCP, each with its length before it.
    fn serve_names(&mut self, context: &mut Context) -> Result<(), Reason> {
        let socket = self.sockets.get_mut::<Socket>(self.handle);
        socket.pause_synack(false);
        loop {
            let mut length = [0; 2];
            if socket.peek_slice(&mut length).unwrap_or(0) < length.len() {
                break;
            }
            let length = usize::from(u16::from_be_bytes(length));
            let mut query = vec![0; 2 + length];
            // A reply is longer than its query by one record.
            if socket.recv_queue() < query.len() || socket.send_capacity() - socket.send_queue() < query.len() + 16 {
                break;
            }
            socket.recv_slice(&mut query).map_err(|_| Reason::Reset)?;
            let reply = crate::udp::answer(context, &query[2..]).ok_or(Reason::Reset)?;
            let framed = [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
            socket.send_slice(&framed).map_err(|_| Reason::Reset)?;
        }
        if matches!(socket.state(), State::CloseWait) {
            socket.close();
        }
        Ok(())
    }

    /// Resets both sides.
    pub fn abort(&mut self, reason: Reason) {
        self.reason.get_or_insert(reason);
        self.sockets.get_mut::<Socket>(self.handle).abort();
        match std::mem::replace(&mut self.host, Host::Nothing) {
            Host::Connected(stream) => stream.abort(),
            // The peer may have accepted a connection that is not known to be made yet.
            Host::Dialling(socket) => Stream::new(socket).abort(),
            Host::Accepting(caller) => caller.refuse(reason),
            _ => {}
        }
    }

    /// True if the guest's side has come to its end, and the host has all that the guest sent.
    pub fn is_over(&self) -> bool {
        let socket = self.socket();
        let has_all = !socket.can_recv() || self.is_broken || !matches!(self.host, Host::Connected(_));
        matches!(socket.state(), State::Closed | State::TimeWait) && has_all
    }

    /// When the flow's present step must be looked at again.
    pub fn alarm(&self) -> Option<Instant> {
        let asks_again = matches!(self.host, Host::Resolving(_)).then(|| self.next_query());
        self.until.into_iter().chain(asks_again).min()
    }

    fn next_query(&self) -> Instant {
        self.since + smoltcp::time::Duration::from(RESOLVER_PATIENCE) * self.queries as u32
    }

    /// True if bytes can be moved at once.
    pub fn has_work(&self) -> bool {
        let socket = self.socket();
        let has_hello = self.awaited_name.is_none();
        matches!(self.host, Host::Connected(_))
            && (self.readable && socket.can_send()
                || self.writable && has_hello && !self.is_broken && socket.can_recv())
    }

    /// Ends the flow, and records it.
    pub fn close(self, context: &mut Context) {
        if let Some(slot) = self.slot {
            context.ledger.closed(slot);
        }
        let elapsed = Instant::now() - self.since;
        let carried = Carried {
            time: elapsed.into(),
            ..self.carried
        };
        context.stats.sent_bytes += carried.sent_bytes;
        context.stats.received_bytes += carried.received_bytes;
        if self.is_open {
            let is_reset = self.reason.is_none() && !self.has_guest_ended;
            let reason = self.reason.or(is_reset.then_some(Reason::Reset));
            context.recorder.closed(&self.subject, reason, carried);
            if let (Host::Connected(stream), true) = (self.host, is_reset) {
                stream.abort();
            }
        } else if !matches!(self.host, Host::Names) {
            context.deny(&self.subject, self.reason.unwrap_or(Reason::Reset));
        }
    }
}

fn new_socket(flows_open: usize) -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; buffer_bytes(flows_open)]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    // Segments come in batches, each of which is acknowledged once.
    socket.set_ack_delay(None);
    socket
}
