//! Connects to the sockets of a VMM.

use crate::error::{PagerError, Result};
use forkd_linux_sys::fds;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Pause between attempts to connect: a socket cannot be waited for before it exists, nor while its queue is full.
const RETRY: Duration = Duration::from_millis(1);

/// Connects to the unix socket at `path`, which may not exist yet or may not accept at the moment. Fails with `VmGone`
/// at `until`.
pub fn connect(path: &str, until: Instant) -> Result<UnixStream> {
    loop {
        let error = match connect_once(path) {
            Ok(socket) => return Ok(socket),
            Err(error) => error,
        };
        let may_come_up = matches!(
            error.kind(),
            ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::WouldBlock
        );
        if !may_come_up || Instant::now() > until {
            return Err(PagerError::gone(format!("connecting to {path}: {error}")));
        }
        std::thread::sleep(RETRY);
    }
}

/// Connects to a unix socket that must accept at once. The connection blocks.
pub fn connect_once(path: &str) -> std::io::Result<UnixStream> {
    let socket = fds::connect_now(Path::new(path))?;
    socket.set_nonblocking(false)?;
    Ok(socket)
}
