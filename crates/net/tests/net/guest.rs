//! A guest: smoltcp at the other end of a wire, with a kernel's address, and a hand for frames that no kernel would send.

use crate::program::PATIENCE;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr, IpEndpoint};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

pub const MAC: [u8; 6] = [0x02, 0xfc, 0, 0, 0, 2];
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0xfc, 0, 0, 0, 1];
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 22);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 21);
const BUFFER_BYTES: usize = 128 << 10;

pub struct Wire(pub UnixDatagram);

pub struct Guest {
    pub wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    next_port: u16,
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sender<'_>)> {
        let mut frame = vec![0; 70_000];
        let length = self.0.recv(&mut frame).ok()?;
        frame.truncate(length);
        Some((Received(frame), Sender(&self.0)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sender<'_>> {
        Some(Sender(&self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 14 + 65_520;
        capabilities
    }
}

pub struct Received(Vec<u8>);
pub struct Sender<'a>(&'a UnixDatagram);

impl smoltcp::phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl smoltcp::phy::TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        // A full wire loses the frame, and TCP sends it again.
        let _ = self.0.send(&frame);
        result
    }
}

impl Guest {
    pub fn new(wire: OwnedFd) -> Guest {
        let wire = UnixDatagram::from(wire);
        wire.set_nonblocking(true).expect("non-blocking");
        let mut wire = Wire(wire);
        let mut config = Config::new(EthernetAddress(MAC).into());
        config.random_seed = 7;
        let mut interface = Interface::new(config, &mut wire, Instant::now());
        interface.update_ip_addrs(|all| all.push(IpCidr::new(ADDRESS.into(), 30)).expect("room"));
        interface.routes_mut().add_default_ipv4_route(GATEWAY).expect("room");
        Guest {
            wire,
            interface,
            sockets: SocketSet::new(vec![]),
            next_port: 20_000,
        }
    }

    pub fn poll(&mut self) {
        self.interface.poll(Instant::now(), &mut self.wire, &mut self.sockets);
    }

    /// Polls until `done` answers.
    pub fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Guest) -> Option<T>) -> T {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            self.poll();
            if let Some(result) = done(self) {
                return result;
            }
            assert!(std::time::Instant::now() < end, "no end of waiting: {what}");
            std::thread::yield_now();
        }
    }

    /// Begins to connect.
    pub fn begin(&mut self, address: Ipv4Addr, port: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_BYTES]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        self.next_port += 1;
        let to = IpEndpoint::new(address.into(), port);
        socket
            .connect(self.interface.context(), to, self.next_port)
            .expect("a new socket");
        self.sockets.add(socket)
    }

    /// A connection, or `None` if it is refused.
    pub fn connect(&mut self, address: Ipv4Addr, port: u16) -> Option<SocketHandle> {
        let handle = self.begin(address, port);
        self.until("a connection", |guest| match guest.tcp(handle).state() {
            tcp::State::Established | tcp::State::CloseWait => Some(Some(handle)),
            tcp::State::Closed => Some(None),
            _ => None,
        })
    }

    /// A socket that accepts one connection.
    pub fn listen(&mut self, port: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_BYTES]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.listen(port).expect("a new socket");
        self.sockets.add(socket)
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn is_closed(&mut self, handle: SocketHandle) -> bool {
        self.tcp(handle).state() == tcp::State::Closed
    }

    pub fn local_port(&mut self, handle: SocketHandle) -> u16 {
        self.tcp(handle).local_endpoint().expect("connected").port
    }

    pub fn send(&mut self, handle: SocketHandle, bytes: &[u8]) {
        let mut sent = 0;
        self.until("room to send", |guest| {
            sent += guest.tcp(handle).send_slice(&bytes[sent..]).expect("open");
            (sent == bytes.len()).then_some(())
        });
    }

    pub fn receive(&mut self, handle: SocketHandle, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.until("bytes", |guest| {
            let room = count - bytes.len();
            let socket = guest.tcp(handle);
            if socket.can_recv() {
                let mut part = vec![0; room];
                let got = socket.recv_slice(&mut part).expect("open");
                bytes.extend_from_slice(&part[..got]);
            }
            (bytes.len() == count).then(|| std::mem::take(&mut bytes))
        })
    }

    /// Sends a datagram and returns the reply.
    pub fn exchange(&mut self, address: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
        let handle = self.datagram(address, port, payload);
        self.until("a datagram", |guest| {
            let socket = guest.sockets.get_mut::<udp::Socket>(handle);
            socket.recv().ok().map(|(bytes, _)| bytes.to_vec())
        })
    }

    /// Sends a datagram.
    pub fn datagram(&mut self, address: Ipv4Addr, port: u16, payload: &[u8]) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 4_096]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        self.next_port += 1;
        socket.bind(self.next_port).expect("a new socket");
        socket
            .send_slice(payload, IpEndpoint::new(address.into(), port))
            .expect("room");
        let handle = self.sockets.add(socket);
        self.poll();
        handle
    }

    /// Asks the gateway for a record. Returns the reply.
    pub fn query(&mut self, name: &str, kind: u16) -> Vec<u8> {
        self.exchange(GATEWAY, 53, &query(name, kind))
    }

    /// The address of a name; `None` if there is none.
    pub fn resolve(&mut self, name: &str) -> Option<Ipv4Addr> {
        let reply = self.query(name, 1);
        (reply[7] == 1).then(|| {
            let address: [u8; 4] = reply[reply.len() - 4..].try_into().expect("four bytes");
            Ipv4Addr::from(address)
        })
    }

    /// Connects to a name.
    pub fn connect_to(&mut self, name: &str, port: u16) -> Option<SocketHandle> {
        let address = self.resolve(name)?;
        self.connect(address, port)
    }
}

/// A DNS query.
pub fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}
