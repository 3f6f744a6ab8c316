//! The network of a guest: the loopback, and where the machine has a network device, one fixed address. Every guest has the same,
//! because the network process of the host serves each over a wire of its own, so that a fork keeps its address.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use super::{BootError, step};
use crate::root_files;
use crate::sys::Interface;

// Twins of the addresses in crates/net.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 22);
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);
/// The network process: it routes, and resolves names.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 21);
/// The wire is a socket, and takes frames that no cable would: fewer, larger ones cost an emulated processor less.
const MTU_BYTES: u16 = 65_520;

const DEVICE: &str = "eth0";

pub fn set_up() -> Result<(), BootError> {
    let set = Interface::open("lo").and_then(|loopback| loopback.up());
    step("bring lo up", set)?;
    if !Path::new("/sys/class/net").join(DEVICE).exists() {
        return Ok(());
    }
    // The network process has no IPv6, and programs would try it first. A kernel without IPv6 has no such file.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6"), "1");
    let set = Interface::open(DEVICE).and_then(|device| {
        device.set_mtu(MTU_BYTES)?;
        device.set_address(ADDRESS, NETMASK)?;
        device.up()?;
        device.route_all_through(GATEWAY)
    });
    step(format_args!("set {DEVICE} up"), set)?;
    let resolver = format!("nameserver {GATEWAY}\n");
    step(
        "write /etc/resolv.conf",
        root_files::write("/etc/resolv.conf", resolver),
    )
}
