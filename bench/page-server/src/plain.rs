//! The server that one would write first: a thread a fork, a page a fault, copied.

use forkd_linux_sys::fds::{self, Wait};
use forkd_linux_sys::memfd::Mapping;
use forkd_linux_sys::uffd::{Event, Range, Stop, Userfaultfd};
use forkd_linux_sys::{PAGE_SIZE, peer::Process};
use serde_json::Value;
use std::io;
use std::os::unix::net::UnixStream;

/// Serves until the VMM has ended.
pub fn serve(stream: &UnixStream, template: &Mapping) -> io::Result<()> {
    let peer = Process::peer(stream)?;
    let (mut buffer, mut received) = (vec![0u8; 4096], Vec::new());
    let got = fds::receive_with_fds(stream, &mut buffer, &mut received)?;
    let regions: Value = serde_json::from_slice(&buffer[..got])?;
    let base = regions[0]["base_host_virt_addr"]
        .as_u64()
        .ok_or(io::ErrorKind::InvalidData)?;
    let uffd = Userfaultfd::adopt(received.pop().ok_or(io::ErrorKind::InvalidData)?)?;
    let mut events = Vec::new();
    loop {
        if fds::wait(&[Wait::readable(&uffd), Wait::readable(&peer)], None)?[1] {
            return Ok(());
        }
        uffd.read_events(&mut events)?;
        for event in events.drain(..) {
            let Event::Fault { address, .. } = event else { continue };
            let bytes = template.bytes((address - base) as usize, PAGE_SIZE);
            if uffd.copy(address, bytes)?.stop == Some(Stop::Present) {
                let end = address + PAGE_SIZE as u64;
                uffd.wake(Range { start: address, end })?;
            }
        }
    }
}
