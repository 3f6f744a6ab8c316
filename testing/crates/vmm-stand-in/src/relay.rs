//! A process that hands over memory which is not its own.

use forkd_linux_sys::fds;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Waits for a VMM, and hands on to `to` what it sends. What is returned are both connections, which are to be kept.
pub fn run(from: &UnixListener, to: &Path) -> io::Result<(UnixStream, UnixStream)> {
    let (sender, _) = from.accept()?;
    let mut message = [0u8; 4096];
    let mut received = Vec::new();
    let bytes = fds::receive_with_fds(&sender, &mut message, &mut received)?;
    let receiver = UnixStream::connect(to)?;
    let received: Vec<_> = received.iter().map(AsFd::as_fd).collect();
    fds::send_with_fds(&receiver, &message[..bytes], &received)?;
    Ok((sender, receiver))
}
