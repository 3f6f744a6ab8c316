//! Asks the host's resolvers for the addresses of a name.

use forkd_linux_sys::random;
use rustix::io::Errno;
use smoltcp::wire::{
    DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsQuestion, DnsRcode, DnsRecord, DnsRecordData, DnsRepr,
};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

/// Aliases that are followed from a name to its addresses.
const ALIASES_MAX: usize = 8;
const ADDRESSES_MAX: usize = 8;
const REPLY_BYTES_MAX: usize = 4_096;

/// A question that was sent. Each has a socket, and so a port, of its own: a forged reply must guess port and id.
pub struct Query {
    socket: UdpSocket,
    id: u16,
    name: String,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Resolved {
    /// The addresses, at least one.
    Addresses(Vec<Ipv4Addr>),
    /// The resolver knows of no address.
    Nothing,
}

impl Query {
    pub fn send(name: &str, resolver: SocketAddr) -> io::Result<Query> {
        let any: SocketAddr = if resolver.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        socket.connect(resolver)?;
        let mut id = [0; 2];
        random::fill(&mut id)?;
        let query = Query {
            socket,
            id: u16::from_be_bytes(id),
            name: name.to_owned(),
        };
        query.socket.send(&query.packet())?;
        Ok(query)
    }

    fn packet(&self) -> Vec<u8> {
        let labels = self.name.split('.');
        let mut name: Vec<u8> = labels
            .flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat())
            .collect();
        name.push(0);
        let repr = DnsRepr {
            transaction_id: self.id,
            flags: DnsFlags::RECURSION_DESIRED,
            opcode: DnsOpcode::Query,
            question: DnsQuestion {
                name: &name,
                type_: DnsQueryType::A,
            },
        };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut DnsPacket::new_unchecked(&mut bytes[..]));
        bytes
    }

    /// Reads replies until one is to this question. `None`: no such reply has come yet.
    pub fn receive(&self) -> Option<Resolved> {
        let mut buffer = [0; REPLY_BYTES_MAX];
        loop {
            match rustix::net::recv(&self.socket, &mut buffer[..], rustix::net::RecvFlags::empty()) {
                Ok((length, _)) => {
                    if let Some(resolved) = read(&buffer[..length], self.id, &self.name) {
                        return Some(resolved);
                    }
                }
                Err(Errno::INTR) => {}
                // An unreachable resolver is treated as one that does not answer: the next one is asked in time.
                Err(_) => return None,
            }
        }
    }
}

impl AsFd for Query {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads the reply to the question `name` with this id. `None` if the message is something else.
fn read(message: &[u8], id: u16, name: &str) -> Option<Resolved> {
    let packet = DnsPacket::new_checked(message).ok()?;
    let is_response = packet.flags().contains(DnsFlags::RESPONSE) && packet.opcode() == DnsOpcode::Query;
    if packet.transaction_id() != id || !is_response || packet.question_count() != 1 {
        return None;
    }
    let (mut rest, question) = DnsQuestion::parse(packet.payload()).ok()?;
    if question.type_ != DnsQueryType::A || name_of(&packet, question.name)? != name {
        return None;
    }
    if packet.rcode() != DnsRcode::NoError {
        return Some(Resolved::Nothing);
    }
    let (mut aliases, mut addresses) = (Vec::new(), Vec::new());
    for _ in 0..packet.answer_record_count() {
        let Ok((after, record)) = DnsRecord::parse(rest) else {
            break;
        };
        rest = after;
        let Some(owner) = name_of(&packet, record.name) else {
            break;
        };
        match record.data {
            DnsRecordData::A(address) => addresses.push((owner, address)),
            DnsRecordData::Cname(target) => aliases.push((owner, name_of(&packet, target)?)),
            DnsRecordData::Other(..) => {}
        }
    }
    let mut canonical = name;
    for _ in 0..ALIASES_MAX {
        match aliases.iter().find(|(owner, _)| owner == canonical) {
            Some((_, target)) => canonical = target,
            None => break,
        }
    }
    let owned = addresses.iter().filter(|(owner, _)| owner == canonical);
    let found: Vec<Ipv4Addr> = owned.map(|(_, address)| *address).take(ADDRESSES_MAX).collect();
    Some(if found.is_empty() {
        Resolved::Nothing
    } else {
        Resolved::Addresses(found)
    })
}

/// A name of a message in lower case; `None` if it is malformed.
fn name_of(packet: &DnsPacket<&[u8]>, bytes: &[u8]) -> Option<String> {
    let labels = packet
        .parse_name(bytes)
        .map(|label| Some(String::from_utf8_lossy(label.ok()?).to_ascii_lowercase()));
    Some(labels.collect::<Option<Vec<_>>>()?.join("."))
}

#[cfg(test)]
mod tests;
