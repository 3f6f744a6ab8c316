//! Descriptors: passed over unix sockets, waited for, counted, woken.

use crate::check;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The kernel's limit on descriptors a message, less some room.
pub const FDS_A_MESSAGE_MAX: usize = 200;

const CONTROL_BYTES: usize = 16 + FDS_A_MESSAGE_MAX * size_of::<RawFd>() + 8;

/// Ancillary data must be aligned as a `cmsghdr` is.
#[repr(align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Sends all of `bytes` with `fds` attached to the first of them.
pub fn send_with_fds(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    assert!(
        fds.len() <= FDS_A_MESSAGE_MAX && !bytes.is_empty(),
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
    // Only the descriptors must travel in one message; the rest of a long text may follow.
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

/// Connects to a unix socket without waiting: `EAGAIN` when whoever listens does not accept. The connection does not wait
/// either.
pub fn connect_now(path: &Path) -> io::Result<UnixStream> {
    // SAFETY: all zeros is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    // One place is left for the end of the name.
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
    // SAFETY: the descriptor was just created and is owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address lives through the call, which is told its size.
    check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), size) }.into())?;
    Ok(fd.into())
}

/// The process at the other end of a connection, as it was when it connected.
pub fn peer_pid(socket: &UnixStream) -> io::Result<i32> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    let (fd, value) = (socket.as_raw_fd(), (&raw mut credentials).cast());
    // SAFETY: writes one ucred, whose size it is told.
    check(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, value, &mut size) }.into())?;
    Ok(credentials.pid)
}

/// A descriptor to wait for, and what for. The end of the other side and errors are always waited for.
#[derive(Debug, Clone, Copy)]
pub struct Wait<'a> {
    pub fd: BorrowedFd<'a>,
    pub read: bool,
    pub write: bool,
}

impl<'a> Wait<'a> {
    pub fn readable(fd: &'a impl AsFd) -> Wait<'a> {
        Wait {
            fd: fd.as_fd(),
            read: true,
            write: false,
        }
    }
}

/// Waits until something can be done with one of `waits`, or until `timeout` (`None`: for ever). Says, for each, whether
/// it is ready: a following read or write will not block, or will report the end.
pub fn wait(waits: &[Wait<'_>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let events = |wait: &Wait<'_>| {
        let read = if wait.read { libc::POLLIN } else { 0 };
        let write = if wait.write { libc::POLLOUT } else { 0 };
        read | write
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
        Ok(_) => Ok(polled.iter().map(|p| p.revents != 0).collect()),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(vec![false; waits.len()]),
        Err(error) => Err(error),
    }
}

/// How many bytes that were written to `socket` its peer has not read yet, in the kernel's own measure: zero means none.
pub fn unread_by_peer(socket: &UnixStream) -> io::Result<u32> {
    ioctl_count(socket, libc::TIOCOUTQ)
}

/// How many bytes wait to be read from `socket`.
pub fn waiting_to_be_read(socket: &UnixStream) -> io::Result<u32> {
    ioctl_count(socket, libc::FIONREAD)
}

fn ioctl_count(socket: &UnixStream, request: u64) -> io::Result<u32> {
    let mut count: libc::c_int = 0;
    // SAFETY: both requests write one int.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), request, &mut count) }.into())?;
    Ok(count as u32)
}

/// A bell that one thread rings and another waits for with [`wait`]. Once rung it stays rung until it is hushed.
#[derive(Debug)]
pub struct Bell {
    fd: OwnedFd,
}

impl Bell {
    pub fn new() -> io::Result<Bell> {
        // SAFETY: a system call with integer arguments.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }.into())?;
        // SAFETY: the descriptor was just created and is owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Bell { fd })
    }

    /// As if it had never been rung.
    pub fn hush(&self) {
        let mut count = 0u64;
        // SAFETY: reads eight bytes into a live variable. The only failure is that it has not been rung.
        unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut count).cast(), 8) };
    }

    pub fn is_rung(&self) -> bool {
        wait(&[Wait::readable(self)], Some(Duration::ZERO)).is_ok_and(|ready| ready[0])
    }

    pub fn ring(&self) {
        let one = 1u64;
        // SAFETY: writes eight bytes from a live variable. The only failure is a full counter: the bell has been rung then.
        unsafe { libc::write(self.fd.as_raw_fd(), (&raw const one).cast(), 8) };
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
