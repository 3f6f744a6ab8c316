//! System calls that std has no safe form of. All the unsafe code of the agent is here, but a block in
//! `command/spawn.rs` and one in `port.rs`.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use inotify::Inotify;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// An epoll instance that latches every change of `file`, in either direction.
pub fn epoll_edges_of(file: &File) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointer; its result is checked and owned by nobody else.
    let epoll = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
    let mut event = libc::epoll_event {
        events: (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET) as u32,
        u64: 0,
    };
    // SAFETY: both descriptors are open and `event` lives through the call.
    check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, file.as_raw_fd(), &mut event) })?;
    Ok(epoll)
}

/// Takes the latched change, if there is one.
pub fn epoll_take(epoll: &OwnedFd) -> io::Result<bool> {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: `event` has room for the one event asked for.
    let count = check(unsafe { libc::epoll_wait(epoll.as_raw_fd(), &mut event, 1, 0) })?;
    Ok(count > 0)
}

/// Tells when events can be read.
pub fn readiness_of(inotify: Inotify) -> io::Result<AsyncFd<Inotify>> {
    // SAFETY: the descriptor is open for as long as the Inotify lives, which is until after it is deregistered.
    unsafe { AsyncFd::register_with_interest(inotify, Interest::READABLE) }.map_err(io::Error::from)
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Exited(i32),
    Signalled(i32),
}

/// Takes one ended child, whichever it is. `None` where no child has ended.
pub fn reap() -> Option<(u32, Ended)> {
    let mut status = 0;
    // SAFETY: `status` lives through the call.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    if pid <= 0 {
        return None;
    }
    let ended = if libc::WIFSIGNALED(status) {
        Ended::Signalled(libc::WTERMSIG(status))
    } else {
        Ended::Exited(libc::WEXITSTATUS(status))
    };
    Some((pid as u32, ended))
}

/// Sends a signal to a process group.
pub fn kill_group(group: u32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::kill(-(group as libc::pid_t), signal) }).map(drop)
}

/// Sends a signal to one process.
pub fn kill(pid: u32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::kill(pid as libc::pid_t, signal) }).map(drop)
}

/// Bytes from the kernel's random number generator.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        // SAFETY: the pointer and the length describe the rest of `bytes`.
        let count = unsafe { libc::getrandom(bytes[filled..].as_mut_ptr().cast(), N - filled, 0) };
        filled += usize::try_from(count).unwrap_or(0);
    }
    bytes
}

/// A pipe, both ends close-on-exec.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds: [RawFd; 2] = [-1; 2];
    // SAFETY: `fds` has room for two descriptors, which nobody else owns afterwards.
    unsafe {
        check(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC))?;
        Ok((OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])))
    }
}

/// A pseudo-terminal: the side that a terminal emulator holds, which does not block, and the side that a program is given.
pub fn pty() -> io::Result<(OwnedFd, OwnedFd)> {
    let both = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the path is a C string; the result is checked and owned here alone.
    let master = unsafe { OwnedFd::from_raw_fd(check(libc::open(c"/dev/ptmx".as_ptr(), both | libc::O_NONBLOCK))?) };
    let unlocked: libc::c_int = 0;
    // SAFETY: the descriptor is open and `unlocked` lives through the call.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlocked) })?;
    // SAFETY: the call takes flags; its result is a new descriptor that is owned here alone.
    let slave = unsafe { OwnedFd::from_raw_fd(check(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, both))?) };
    Ok((master, slave))
}

/// Sets the size of a terminal. The kernel tells its foreground programs, if the size is another one.
pub fn set_window_size(terminal: &OwnedFd, rows: u16, cols: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is open and `size` lives through the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) }).map(drop)
}

/// The process group in the foreground of a terminal. `None` if there is none.
pub fn foreground_group(terminal: &OwnedFd) -> Option<u32> {
    let mut group: libc::pid_t = 0;
    // SAFETY: the descriptor is open and `group` lives through the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGPGRP, &mut group) }).ok()?;
    u32::try_from(group).ok().filter(|group| *group > 0)
}

/// Gives a file to a user.
pub fn set_owner(file: &OwnedFd, uid: u32) -> io::Result<()> {
    // SAFETY: the descriptor is open. The group of the file stays.
    check(unsafe { libc::fchown(file.as_raw_fd(), uid, libc::gid_t::MAX) }).map(drop)
}

/// Whether this process could execute the file. (Root can execute what has any execute bit.)
pub fn executable(path: &CStr) -> bool {
    // SAFETY: `path` is a C string.
    unsafe { libc::access(path.as_ptr(), libc::X_OK) == 0 }
}

pub fn mount(
    source: &CStr,
    target: &CStr,
    fstype: Option<&CStr>,
    flags: libc::c_ulong,
    options: Option<&CStr>,
) -> io::Result<()> {
    // SAFETY: every pointer is a C string or null, where the kernel allows null.
    check(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            fstype.map_or(ptr::null(), CStr::as_ptr),
            flags,
            options.map_or(ptr::null(), |text| text.as_ptr().cast()),
        )
    })
    .map(drop)
}

pub fn chroot(path: &CStr) -> io::Result<()> {
    // SAFETY: `path` is a C string.
    check(unsafe { libc::chroot(path.as_ptr()) }).map(drop)
}

/// Loads a kernel module from an open file. `compressed`: let the kernel decompress it.
pub fn finit_module(file: &File, compressed: bool) -> io::Result<()> {
    const MODULE_INIT_COMPRESSED_FILE: libc::c_int = 4;
    let flags = if compressed { MODULE_INIT_COMPRESSED_FILE } else { 0 };
    // SAFETY: the descriptor is open and the parameters are an empty C string.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), flags) };
    check(result as libc::c_int).map(drop)
}

/// A network interface that is being set up. Changes are made at once.
pub struct Interface {
    name: &'static str,
    socket: OwnedFd,
}

impl Interface {
    pub fn open(name: &'static str) -> io::Result<Interface> {
        assert!(name.len() < libc::IFNAMSIZ, "a name that the kernel could have given");
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        // SAFETY: the socket call takes no pointer; its result is checked and owned here.
        let socket = unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_INET, kind, 0))?) };
        Ok(Interface { name, socket })
    }

    pub fn up(&self) -> io::Result<()> {
        let flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        self.request(libc::SIOCSIFFLAGS, libc::__c_anonymous_ifr_ifru { ifru_flags: flags })
    }

    /// The largest packet, in bytes, without the Ethernet header.
    pub fn set_mtu(&self, bytes: u16) -> io::Result<()> {
        let ifru_mtu = libc::c_int::from(bytes);
        self.request(libc::SIOCSIFMTU, libc::__c_anonymous_ifr_ifru { ifru_mtu })
    }

    pub fn set_address(&self, address: Ipv4Addr, netmask: Ipv4Addr) -> io::Result<()> {
        let ifru_addr = socket_address(address);
        self.request(libc::SIOCSIFADDR, libc::__c_anonymous_ifr_ifru { ifru_addr })?;
        let ifru_netmask = socket_address(netmask);
        self.request(libc::SIOCSIFNETMASK, libc::__c_anonymous_ifr_ifru { ifru_netmask })
    }

    /// Sends what is for nobody on this machine's own networks to `gateway`. The interface is up.
    pub fn route_all_through(&self, gateway: Ipv4Addr) -> io::Result<()> {
        // SAFETY: an all-zero rtentry is a valid one.
        let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
        route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = socket_address(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        // SAFETY: `route` is a complete rtentry that lives through the call.
        check(unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCADDRT, &route) }).map(drop)
    }

    fn request(&self, what: libc::c_ulong, value: libc::__c_anonymous_ifr_ifru) -> io::Result<()> {
        let mut request = libc::ifreq {
            ifr_name: [0; libc::IFNAMSIZ],
            ifr_ifru: value,
        };
        for (place, byte) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *place = byte as libc::c_char;
        }
        // SAFETY: `request` is a complete ifreq that lives through the call.
        check(unsafe { libc::ioctl(self.socket.as_raw_fd(), what, &request) }).map(drop)
    }
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from(address).to_be(),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: both are plain bytes of the same size, and a sockaddr_in is a sockaddr of AF_INET.
    unsafe { std::mem::transmute(address) }
}

pub fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `name`.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Steps the wall clock.
pub fn set_wall_clock(since_epoch: Duration) -> io::Result<()> {
    let time = libc::timespec {
        tv_sec: since_epoch.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(since_epoch.subsec_nanos()),
    };
    // SAFETY: `time` lives through the call.
    check(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &time) }).map(drop)
}

/// Room for the entropy that one identity brings.
pub const ENTROPY_BYTES_MAX: usize = 512;

/// Adds entropy to the kernel's pool, credits it, and makes the generator start from it at once.
pub fn add_entropy(entropy: &[u8]) -> io::Result<()> {
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    #[repr(C)]
    struct Pool {
        entropy_bits: libc::c_int,
        size_bytes: libc::c_int,
        bytes: [u8; ENTROPY_BYTES_MAX],
    }
    assert!(entropy.len() <= ENTROPY_BYTES_MAX, "checked by the caller");
    let mut pool = Pool {
        entropy_bits: entropy.len() as libc::c_int * 8,
        size_bytes: entropy.len() as libc::c_int,
        bytes: [0; ENTROPY_BYTES_MAX],
    };
    pool.bytes[..entropy.len()].copy_from_slice(entropy);
    let device = File::options().write(true).open("/dev/urandom")?;
    // SAFETY: `pool` has the layout of rand_pool_info, and size_bytes of it are filled.
    check(unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &pool) })?;
    reseed(&device)
}

/// Waits until the kernel says that a file of a control group has changed since it was read. `false`: not in time.
pub fn wait_for_change(file: &File, timeout: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLPRI,
        revents: 0,
    };
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: `poll` is one entry that lives through the call.
    match check(unsafe { libc::poll(&mut poll, 1, timeout_ms) }) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
        result => Ok(result? > 0),
    }
}

/// Makes the kernel's generator start from its pool at once. `device` is `/dev/urandom`, opened for writing.
pub fn reseed(device: &File) -> io::Result<()> {
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    // SAFETY: this request takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) }).map(drop)
}

/// The 64-bit words of a page.
pub type Words = [AtomicU64; PAGE_BYTES / 8];
pub const PAGE_BYTES: usize = 4096;

/// Maps the first page of a file for as long as this process lives, and locks it in memory.
pub fn map_locked_page(file: &File) -> io::Result<&'static Words> {
    // SAFETY: the kernel chooses the address, and the mapping is of this process alone.
    let mapped = unsafe {
        libc::mmap(
            ptr::null_mut(),
            PAGE_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the range is the mapping that was made a moment ago.
    check(unsafe { libc::mlock(mapped, PAGE_BYTES) })?;
    // SAFETY: the mapping is a page, aligned to one, never unmapped, and any bytes are valid numbers.
    Ok(unsafe { &*mapped.cast::<Words>() })
}

/// Raises the limit of open files, for the agent and what it starts.
pub fn raise_file_limit(files_max: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: files_max,
        rlim_max: files_max,
    };
    // SAFETY: `limit` lives through the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }).map(drop)
}

pub fn uid() -> u32 {
    // SAFETY: the call always succeeds and takes nothing.
    unsafe { libc::getuid() }
}
