//! The host's end of a TCP flow.

use crate::limits::SMALL_BUFFER_BYTES;
use crate::lines;
use crate::resolve::Query;
use crate::wires::fault;
use forkd_protocol::net::{Answer, FaultCode, Reason, Reply};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The socket of the host that a flow of the guest is connected to, or will be.
pub enum Host {
    /// Waits for the addresses of a name.
    Resolving(Query),
    /// Waits for a server to accept.
    Dialling(OwnedFd),
    /// Waits for the guest to accept a connection that a caller of the host has asked for.
    Accepting(Caller),
    Connected(Stream),
    /// The gateway's resolver.
    Names,
    /// The peer is not there yet, or no longer.
    Nothing,
}

impl Host {
    /// True while the guest has no peer yet.
    pub fn is_dialling(&self) -> bool {
        matches!(self, Host::Resolving(_) | Host::Dialling(_))
    }
}

/// A caller on the host who wants to reach a port of the guest.
pub struct Caller {
    pub stream: std::os::unix::net::UnixStream,
    /// The id of the request, which is answered before the first byte.
    pub request: u64,
}

impl Caller {
    /// Tells the caller that the guest is connected. From then on the stream carries the guest's bytes.
    pub fn accept(self) -> io::Result<Stream> {
        let stream = Stream::new(self.stream.into());
        let line = lines::line(&Reply::Ok {
            id: self.request,
            result: Answer::Done,
        });
        // An answer is short, so it fits the socket whole if its caller reads at all.
        match stream.write(&line)? {
            Some(count) if count == line.len() => Ok(stream),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Tells the caller why the guest was not reached.
    pub fn refuse(self, reason: Reason) {
        let (code, why) = match reason {
            Reason::TimedOut => (FaultCode::TimedOut, "the guest does not answer"),
            Reason::Limit => (FaultCode::Limit, "the sandbox has too many connections"),
            Reason::Refused => (FaultCode::Refused, "the guest refuses the connection"),
            _ => (FaultCode::Refused, "the guest has reset the connection"),
        };
        let error = fault(code, why);
        let line = lines::line(&Reply::Err {
            id: self.request,
            error,
        });
        // A caller that has gone needs no answer.
        let _ = Stream::new(self.stream.into()).write(&line);
    }
}

/// A connected stream socket that never blocks.
pub struct Stream(OwnedFd);

impl Stream {
    pub fn new(socket: OwnedFd) -> Stream {
        Stream(socket)
    }

    /// Reads into `buffer`. Zero is the end. `None`: nothing has arrived.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        once(|| rustix::io::read(&self.0, &mut *buffer))
    }

    /// Writes a part of `bytes`. `None`: the socket is full.
    pub fn write(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        once(|| rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT))
    }

    /// Tells the peer that no more will be written.
    pub fn finish(&self) {
        // Fails only if the peer has gone.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Write);
    }

    /// Closes the socket so that its peer sees a reset rather than an end.
    pub fn abort(self) {
        // Fails for a unix socket, whose peer sees an end.
        let _ = sockopt::set_socket_linger(&self.0, Some(Duration::ZERO));
    }
}

fn once(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        return match call() {
            Ok(count) => Ok(Some(count)),
            Err(Errno::INTR) => continue,
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        };
    }
}

/// Begins to connect. The socket becomes writable when the connection is made, or has failed.
pub fn dial(address: Ipv4Addr, port: u16, is_crowded: bool) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    if is_crowded {
        // Otherwise the kernel lets each buffer grow to megabytes.
        sockopt::set_socket_send_buffer_size(&socket, SMALL_BUFFER_BYTES)?;
        sockopt::set_socket_recv_buffer_size(&socket, SMALL_BUFFER_BYTES)?;
    }
    match rustix::net::connect(&socket, &SocketAddrV4::new(address, port)) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// The state of a connection whose socket has become writable.
pub fn dialled(socket: &OwnedFd) -> io::Result<()> {
    sockopt::socket_error(socket)?.map_err(io::Error::from)
}
