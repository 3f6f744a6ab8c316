//! The end of a sandbox's wire: sorts the guest's frames, and refuses all that is not plain IPv4 from the guest itself.

use crate::addresses::{GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC};
use crate::journal::{Recorder, Subject};
use crate::ledger::Ledger;
use crate::limits::{Bucket, NEW_FLOWS};
use crate::link::Output;
use crate::packets::{self, FlowId};
use crate::policy::Rules;
use crate::tcp::TcpFlows;
use crate::udp::UdpFlows;
use forkd_protocol::net::{Connection, Direction, Inherited, Reason, WireStats};
use rustix::event::epoll;
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpControl};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The least header: a longer one has options, such as a source route.
const PLAIN_HEADER: u8 = 20;
/// The host's own addresses are looked up again after this time.
const OWN_ADDRESSES_FOR: Duration = Duration::from_secs(1);

/// The parts that all flows of a sandbox share.
pub struct Context {
    pub output: Output,
    pub epoll: OwnedFd,
    pub rules: Rules,
    pub ledger: Ledger,
    pub recorder: Recorder,
    pub resolvers: Arc<Vec<SocketAddr>>,
    pub new_flows: Bucket,
    pub stats: WireStats,
    own: Option<(Instant, Vec<Ipv4Addr>)>,
}

impl Context {
    pub fn new(
        output: Output,
        rules: Rules,
        ledger: Ledger,
        recorder: Recorder,
        resolvers: Arc<Vec<SocketAddr>>,
    ) -> io::Result<Context> {
        Ok(Context {
            output,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            rules,
            ledger,
            recorder,
            resolvers,
            new_flows: Bucket::new(NEW_FLOWS, Instant::now()),
            stats: WireStats::default(),
            own: None,
        })
    }

    /// Reports the events of `fd` under `token`, each change once.
    pub fn watch(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let events = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), events)?)
    }

    /// The host's addresses. An error means that no address can be judged, so none may be dialled.
    pub fn own_addresses(&mut self) -> io::Result<&[Ipv4Addr]> {
        let now = Instant::now();
        if self
            .own
            .as_ref()
            .is_none_or(|(at, _)| now.duration_since(*at) > OWN_ADDRESSES_FOR)
        {
            self.own = Some((now, forkd_linux_sys::net::own_addresses()?));
        }
        Ok(self.own.as_ref().map_or(&[], |(_, addresses)| addresses))
    }

    pub fn deny(&mut self, subject: &Subject, reason: Reason) {
        self.stats.flows_denied += 1;
        self.recorder.denied(subject, reason);
    }
}

pub struct Stack {
    pub context: Context,
    pub tcp: TcpFlows,
    pub udp: UdpFlows,
}

impl Stack {
    pub fn new(mut context: Context) -> Stack {
        Stack {
            tcp: TcpFlows::new(&mut context),
            udp: UdpFlows::default(),
            context,
        }
    }

    /// The inheritance of a fork of this sandbox.
    pub fn mark(&self) -> Inherited {
        self.context.ledger.inherited()
    }

    /// Replaces the policy. Returns how many flows it ended.
    pub fn set_rules(&mut self, rules: Rules) -> u32 {
        self.context.rules = rules;
        self.tcp.recheck(&mut self.context) + self.udp.recheck(&mut self.context)
    }

    /// Ends connections that the guest believes to be open, and that are not open here.
    ///
    /// A reset is right if nothing was on the wire to the guest when its memory was captured. If something was, the guest
    /// ignores the reset or questions it. So a segment follows that lies outside of every window, one half of the sequence
    /// space away: a guest that has the connection answers it with its exact numbers, and that answer, of a flow unknown
    /// here, is answered with the exact reset.
    pub fn reset(&mut self, connections: &[Connection]) {
        for connection in connections {
            let id = FlowId {
                guest_port: connection.guest_port,
                address: connection.address,
                port: connection.port,
            };
            let next = connection.next_sequence;
            packets::tcp(&mut self.context.output, id, TcpControl::Rst, next, Some(0));
            packets::tcp(
                &mut self.context.output,
                id,
                TcpControl::None,
                next.wrapping_add(1 << 31),
                Some(0),
            );
        }
    }

    pub fn stats(&self) -> WireStats {
        WireStats {
            flows_open: (self.tcp.len() + self.udp.len()) as u32,
            ..self.context.stats
        }
    }

    /// Closes all flows.
    pub fn end(&mut self) {
        self.tcp.end(&mut self.context);
        self.udp.end(&mut self.context);
    }

    /// Takes one frame from the guest.
    pub fn ingress(&mut self, frame: &[u8]) {
        self.context.stats.frames += 1;
        if self.sort(frame).is_none() {
            self.context.stats.frames_refused += 1;
        }
    }

    /// `None` if the frame is refused.
    fn sort(&mut self, frame: &[u8]) -> Option<()> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        if ethernet.src_addr() != GUEST_MAC {
            return None;
        }
        match ethernet.ethertype() {
            EthernetProtocol::Arp if [GATEWAY_MAC, EthernetAddress::BROADCAST].contains(&ethernet.dst_addr()) => {
                packets::arp(&mut self.context.output, ethernet.payload());
                Some(())
            }
            EthernetProtocol::Ipv4 if ethernet.dst_addr() == GATEWAY_MAC => self.ip(ethernet.payload()),
            _ => None,
        }
    }

    fn ip(&mut self, bytes: &[u8]) -> Option<()> {
        let packet = Ipv4Packet::new_checked(bytes).ok()?;
        let is_whole = !packet.more_frags() && packet.frag_offset() == 0;
        let is_plain = packet.version() == 4 && packet.header_len() == PLAIN_HEADER && packet.hop_limit() > 0;
        if packet.src_addr() != GUEST || !is_whole || !is_plain {
            return None;
        }
        // Ethernet pads short frames: what follows the packet is no part of it.
        let bytes = &bytes[..usize::from(packet.total_len())];
        match packet.next_header() {
            IpProtocol::Tcp => self.tcp.ingress(&mut self.context, &packet, bytes),
            IpProtocol::Udp => self.udp.ingress(&mut self.context, &packet),
            IpProtocol::Icmp
                if packet.dst_addr() == GATEWAY && packets::pong(&mut self.context.output, packet.payload()) =>
            {
                Some(())
            }
            _ => {
                self.refuse(&packet);
                Some(())
            }
        }
    }

    fn refuse(&mut self, packet: &Ipv4Packet<&[u8]>) {
        let subject = Subject {
            direction: Direction::Out,
            transport: None,
            name: None,
            address: packet.dst_addr(),
            port: 0,
            rule: None,
        };
        self.context.deny(&subject, Reason::Protocol);
    }
}
