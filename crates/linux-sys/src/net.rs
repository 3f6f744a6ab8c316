//! Sockets and addresses that the standard library does not offer.

use crate::check;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Bytes that may wait in each direction of a pair: sixteen frames of the largest size.
const PAIR_BUFFER_BYTES: libc::c_int = 1 << 20;

/// Two unix datagram sockets that are connected to each other, close-on-exec, with room for large datagrams. Without
/// `CAP_NET_ADMIN` the room is what the host allows.
pub fn datagram_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [0; 2];
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: writes two descriptors into the array.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) }.into())?;
    // SAFETY: the descriptors were just created and have no other owner.
    let pair = pair.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    for fd in &pair {
        let forced = set_int(fd, libc::SO_SNDBUFFORCE, PAIR_BUFFER_BYTES);
        forced.or_else(|_| set_int(fd, libc::SO_SNDBUF, PAIR_BUFFER_BYTES))?;
    }
    let [one, other] = pair;
    Ok((one, other))
}

/// True if `fd` is a unix datagram socket.
pub fn is_unix_datagram(fd: BorrowedFd<'_>) -> bool {
    get_int(fd, libc::SO_DOMAIN).is_ok_and(|domain| domain == libc::AF_UNIX)
        && get_int(fd, libc::SO_TYPE).is_ok_and(|kind| kind == libc::SOCK_DGRAM)
}

fn set_int(fd: &OwnedFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = size_of_val(&value) as libc::socklen_t;
    // SAFETY: reads one int, of the given size.
    let set = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size,
        )
    };
    check(set.into()).map(drop)
}

fn get_int(fd: BorrowedFd<'_>, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut size = size_of_val(&value) as libc::socklen_t;
    let place = (&raw mut value).cast();
    // SAFETY: writes one int, of the given size.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, place, &mut size) }.into())?;
    Ok(value)
}

/// The IPv4 addresses of this host's interfaces.
pub fn own_addresses() -> io::Result<Vec<Ipv4Addr>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: stores a list that is freed below.
    check(unsafe { libc::getifaddrs(&mut list) }.into())?;
    let mut addresses = Vec::new();
    let mut entry = list;
    while !entry.is_null() {
        // SAFETY: the list lives until it is freed; an address of family AF_INET is a sockaddr_in.
        unsafe {
            let address = (*entry).ifa_addr;
            if !address.is_null() && i32::from((*address).sa_family) == libc::AF_INET {
                let inet: libc::sockaddr_in = address.cast::<libc::sockaddr_in>().read_unaligned();
                addresses.push(Ipv4Addr::from_bits(u32::from_be(inet.sin_addr.s_addr)));
            }
            entry = (*entry).ifa_next;
        }
    }
    // SAFETY: frees the list, of which nothing is borrowed any more.
    unsafe { libc::freeifaddrs(list) };
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_large_datagram_crosses_a_pair_whole() {
        let (one, other) = datagram_pair().expect("a pair");
        assert!(is_unix_datagram(one.as_fd()));
        let (one, other) = (UnixDatagram::from(one), UnixDatagram::from(other));
        one.send(&[7; 65_534]).expect("sent");
        assert_eq!(other.recv(&mut [0; 70_000]).expect("received"), 65_534);
    }

    #[test]
    fn loopback_is_among_the_addresses_of_a_host() {
        assert!(own_addresses().expect("a list").contains(&Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn another_kind_of_socket_is_told_from_a_datagram_socket() {
        let (stream, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert!(!is_unix_datagram(stream.as_fd()));
    }
}
