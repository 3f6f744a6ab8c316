//! File descriptors: passing them over unix sockets, waiting for them, eventfds.

use crate::check;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// The kernel's limit on descriptors per message, less some room.
pub const FDS_PER_MESSAGE_MAX: usize = 200;

/// Pause after a failure to accept a connection.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(50);

const CONTROL_BYTES: usize = 16 + FDS_PER_MESSAGE_MAX * size_of::<RawFd>() + 8;

/// Ancillary data must be aligned like a `cmsghdr`.
#[repr(align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Sends all of `bytes` with `fds` attached to the first of them.
pub fn send_with_fds(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    assert!(
        fds.len() <= FDS_PER_MESSAGE_MAX && !bytes.is_empty(),
        "descriptors need a byte to travel with, and fit a message"
    );
    let mut control = Control([0; CONTROL_BYTES]);
    let mut iov = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all zeros is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let payload = size_of_val(fds) as u32;
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE and CMSG_LEN compute; the header lies inside `control`, which has room for the limit.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(payload) as usize;
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(payload) as usize;
            let data: *mut RawFd = libc::CMSG_DATA(header).cast();
            for (index, fd) in fds.iter().enumerate() {
                data.add(index).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    // SAFETY: `message` points to memory that lives through the call.
    let sent = check(unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL) } as i64)? as usize;
    // Only the first part must travel with the descriptors. The rest of a long text may follow.
    let mut rest = socket;
    io::Write::write_all(&mut rest, &bytes[sent..])
}

/// Receives up to `buffer.len()` bytes and the descriptors that came with them, appended to `fds`. Zero means the end.
pub fn receive_with_fds(socket: &UnixStream, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut control = Control([0; CONTROL_BYTES]);
    let mut iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all zeros is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES;
    // SAFETY: `message` points to memory that lives through the call.
    let got =
        check(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) } as i64)? as usize;
    // SAFETY: the kernel filled in the headers; the macros walk them inside `control`.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let data: *const RawFd = libc::CMSG_DATA(header).cast();
                let count = ((*header).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                fds.extend((0..count).map(|index| OwnedFd::from_raw_fd(data.add(index).read_unaligned())));
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    Ok(got)
}

/// Listens on a unix socket at `path`. Replaces a socket file that an earlier process left there.
///
/// The file gets `mode`; `None` leaves it to the umask. The caller makes sure that no living process listens at `path`.
pub fn listen(path: &Path, mode: Option<u32>) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    if let Some(mode) = mode {
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(listener)
}

/// Connects to a unix socket without waiting: `EAGAIN` if the listener does not accept. The connection is non-blocking
/// too.
pub fn connect_now(path: &Path) -> io::Result<UnixStream> {
    // SAFETY: all zeros is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    // Leave room for the terminating zero of the name.
    let room = address.sun_path.len() - 1;
    if bytes.is_empty() || bytes.len() > room {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (place, byte) in address.sun_path.iter_mut().zip(bytes) {
        *place = *byte as libc::c_char;
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: a system call with integer arguments.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) }.into())?;
    // SAFETY: the descriptor was just created and has no other owner.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address lives through the call, and `size` is its size.
    check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), size) }.into())?;
    Ok(fd.into())
}

/// Sends `len` bytes of `file` from `offset` on. The kernel passes its pages on, where it can: the receiver's copy is the only one.
/// Bytes that are written to the file before they are received may therefore be received. Fails with `UnexpectedEof` if the file is shorter.
pub fn send_file(socket: &UnixStream, file: &File, offset: u64, len: u64) -> io::Result<()> {
    let mut at = offset as i64;
    let end = at + len as i64;
    while at < end {
        let (to, from) = (socket.as_raw_fd(), file.as_raw_fd());
        // SAFETY: both descriptors are owned, and the call writes one offset, to a live variable.
        match check(unsafe { libc::sendfile(to, from, &mut at, (end - at) as usize) } as i64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Raises the number of bytes that can be written to `socket` before they are read. Without `CAP_NET_ADMIN` the kernel's limit applies.
pub fn enlarge_send_buffer(socket: &UnixStream, bytes: usize) -> io::Result<()> {
    let bytes = bytes as libc::c_int;
    let set = |option| {
        let (fd, value, size) = (socket.as_raw_fd(), (&raw const bytes).cast(), size_of_val(&bytes));
        // SAFETY: reads one int, of the given size.
        check(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, value, size as libc::socklen_t) }.into())
    };
    set(libc::SO_SNDBUFFORCE).or_else(|_| set(libc::SO_SNDBUF)).map(drop)
}

/// The process at the other end of a connection, at the time it connected.
pub fn peer_pid(socket: &UnixStream) -> io::Result<i32> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    let (fd, value) = (socket.as_raw_fd(), (&raw mut credentials).cast());
    // SAFETY: writes one ucred, of the given size.
    check(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, value, &mut size) }.into())?;
    Ok(credentials.pid)
}

/// A descriptor with the conditions to wait for. The end of the other side and errors are always among them.
#[derive(Debug, Clone, Copy)]
pub struct Wait<'a> {
    pub fd: BorrowedFd<'a>,
    pub read: bool,
    pub write: bool,
    /// Also wait until the other side will send nothing more, even if some data has not been read.
    pub end: bool,
}

impl<'a> Wait<'a> {
    pub fn readable(fd: &'a impl AsFd) -> Wait<'a> {
        Wait {
            read: true,
            ..Wait::failing(fd)
        }
    }

    /// Waits only for the end of the other side: data that arrives meanwhile wakes no thread.
    pub fn ending(fd: &'a impl AsFd) -> Wait<'a> {
        Wait {
            end: true,
            ..Wait::failing(fd)
        }
    }

    fn failing(fd: &'a impl AsFd) -> Wait<'a> {
        Wait {
            fd: fd.as_fd(),
            read: false,
            write: false,
            end: false,
        }
    }
}

/// The state of a descriptor after a wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ready {
    /// A read will not block, or will report the end.
    pub read: bool,
    pub write: bool,
    /// The other side is gone. This state stays: waiting for it again would spin.
    pub hung_up: bool,
    /// The descriptor cannot be waited for any more. This state stays, too.
    pub failed: bool,
}

impl Ready {
    pub fn is_any(self) -> bool {
        self != Ready::default()
    }
}

/// Waits until one of `waits` is ready, or until `timeout` (`None`: forever). Returns for each whether it is ready: a
/// following read or write will not block, or will report the end.
pub fn wait(waits: &[Wait<'_>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    Ok(look(waits, timeout)?.into_iter().map(Ready::is_any).collect())
}

/// The same, with the state of each descriptor.
pub fn look(waits: &[Wait<'_>], timeout: Option<Duration>) -> io::Result<Vec<Ready>> {
    let events = |wait: &Wait<'_>| {
        let read = if wait.read { libc::POLLIN } else { 0 };
        let write = if wait.write { libc::POLLOUT } else { 0 };
        let end = if wait.end { libc::POLLRDHUP } else { 0 };
        read | write | end
    };
    let mut polled: Vec<libc::pollfd> = waits
        .iter()
        .map(|wait| libc::pollfd {
            fd: wait.fd.as_raw_fd(),
            events: events(wait),
            revents: 0,
        })
        .collect();
    let millis = timeout.map_or(-1, |t| i32::try_from(t.as_millis()).unwrap_or(i32::MAX));
    // SAFETY: the vector holds `len` entries.
    match check(unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as u64, millis) }.into()) {
        Ok(_) => Ok(polled.iter().map(|polled| ready_of(polled.revents)).collect()),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(vec![Ready::default(); waits.len()]),
        Err(error) => Err(error),
    }
}

fn ready_of(events: i16) -> Ready {
    Ready {
        read: events & libc::POLLIN != 0,
        write: events & libc::POLLOUT != 0,
        hung_up: events & (libc::POLLHUP | libc::POLLRDHUP) != 0,
        failed: events & (libc::POLLERR | libc::POLLNVAL) != 0,
    }
}

/// Accepts connections to `listener`, one after the other, forever. Pauses after a failure, for example for lack of
/// descriptors: the connection still waits, and an immediate retry would spin.
pub fn connections(listener: &UnixListener) -> impl Iterator<Item = UnixStream> {
    listener
        .incoming()
        .filter_map(|accepted| accepted.inspect_err(|_| std::thread::sleep(ACCEPT_RETRY)).ok())
}

/// Bytes written to `socket` that its peer has not read yet, in the kernel's own measure: zero means none.
pub fn unread_by_peer(socket: &UnixStream) -> io::Result<u32> {
    ioctl_count(socket, libc::TIOCOUTQ)
}

/// Bytes that wait to be read from `socket`.
pub fn waiting_to_be_read(socket: &UnixStream) -> io::Result<u32> {
    ioctl_count(socket, libc::FIONREAD)
}

fn ioctl_count(socket: &UnixStream, request: u64) -> io::Result<u32> {
    let mut count: libc::c_int = 0;
    // SAFETY: both requests write one int.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), request, &mut count) }.into())?;
    Ok(count as u32)
}

/// An eventfd that a thread signals and another thread waits for with [`wait`]. The signal stays until it is cleared.
#[derive(Debug)]
pub struct EventFd {
    fd: OwnedFd,
}

impl EventFd {
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: a system call with integer arguments.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }.into())?;
        // SAFETY: the descriptor was just created and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(EventFd { fd })
    }

    /// Clears the signal, as if it had never been sent.
    pub fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: reads eight bytes into a live variable. Fails only if there was no signal.
        unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut count).cast(), 8) };
    }

    pub fn is_signalled(&self) -> bool {
        wait(&[Wait::readable(self)], Some(Duration::ZERO)).is_ok_and(|ready| ready[0])
    }

    pub fn signal(&self) {
        let one = 1u64;
        // SAFETY: writes eight bytes from a live variable. Fails only if the counter is full, and then the eventfd is signalled.
        unsafe { libc::write(self.fd.as_raw_fd(), (&raw const one).cast(), 8) };
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
