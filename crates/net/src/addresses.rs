//! The addresses of a wire, which are the same in every sandbox, and the addresses that a rule must name to allow.

use smoltcp::wire::{EthernetAddress, Ipv4Cidr};
use std::net::Ipv4Addr;

pub const GUEST: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 22);
pub const GUEST_MAC: EthernetAddress = EthernetAddress([0x02, 0xfc, 0, 0, 0, 2]);
/// The guest's router and resolver.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 21);
pub const GATEWAY_MAC: EthernetAddress = EthernetAddress([0x02, 0xfc, 0, 0, 0, 1]);
pub const PREFIX: u8 = 30;
/// The largest IP packet on the wire, in bytes.
pub const MTU: usize = 65_520;

/// Addresses that stand for names: each is a name of one sandbox, or nothing.
pub const SYNTHETIC: Ipv4Cidr = cidr(198, 18, 0, 0, 15);

const fn cidr(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Cidr {
    Ipv4Cidr::new(Ipv4Addr::new(a, b, c, d), prefix)
}

/// Ranges of IANA's special-purpose registry, and one address at which a cloud serves metadata.
const RESERVED: [Ipv4Cidr; 17] = [
    cidr(0, 0, 0, 0, 8),
    cidr(10, 0, 0, 0, 8),
    cidr(100, 64, 0, 0, 10),
    cidr(127, 0, 0, 0, 8),
    // Azure's WireServer.
    cidr(168, 63, 129, 16, 32),
    cidr(169, 254, 0, 0, 16),
    cidr(172, 16, 0, 0, 12),
    cidr(192, 0, 0, 0, 24),
    cidr(192, 0, 2, 0, 24),
    cidr(192, 31, 196, 0, 24),
    cidr(192, 52, 193, 0, 24),
    cidr(192, 88, 99, 0, 24),
    cidr(192, 168, 0, 0, 16),
    SYNTHETIC,
    cidr(198, 51, 100, 0, 24),
    cidr(203, 0, 113, 0, 24),
    // Multicast, and everything above it up to broadcast.
    cidr(224, 0, 0, 0, 3),
];

pub fn is_reserved(address: Ipv4Addr) -> bool {
    RESERVED.iter().any(|range| range.contains_addr(&address))
}

/// True if the author of a range has meant reserved addresses: it lies within one reserved range, or is one address.
pub fn names_reserved(range: &Ipv4Cidr) -> bool {
    range.prefix_len() == 32 || RESERVED.iter().any(|reserved| reserved.contains_subnet(range))
}
