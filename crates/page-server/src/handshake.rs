//! Firecracker's handshake: one message, a bare JSON array of regions, and one userfaultfd with it.

use crate::layout::{Layout, LayoutError, Region};
use forkd_linux_sys::fds;
use forkd_linux_sys::peer::Process;
use forkd_linux_sys::uffd::Userfaultfd;
use serde::Deserialize;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Firecracker has a region or two; each takes some 150 bytes.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
const REGIONS_MAX: usize = 64;

/// Why a handshake is not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HandshakeError {
    #[error("identifying the peer: {0}")]
    Peer(Arc<io::Error>),
    #[error("the peer said nothing, or not all, within {0:?}")]
    Silent(Duration),
    #[error("the peer hung up after {0} bytes")]
    HungUp(usize),
    #[error("receiving: {0}")]
    Receive(Arc<io::Error>),
    #[error("the message is longer than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    #[error("the message is no list of regions: {0}")]
    Malformed(String),
    #[error("{0} descriptors came with the message instead of one")]
    Descriptors(usize),
    #[error("{0}")]
    NoUserfaultfd(Arc<io::Error>),
    #[error("the userfaultfd does not report memory that is given back")]
    NoRemovals,
    #[error("region {index}: {reason}")]
    Region { index: usize, reason: LayoutError },
    #[error("{0} regions, instead of 1 to {REGIONS_MAX}")]
    RegionCount(usize),
}

/// A VMM's memory, as the VMM has handed it over.
#[derive(Debug)]
pub struct Handshake {
    pub peer: Process,
    pub uffd: Userfaultfd,
    pub layout: Layout,
    /// Kept, because its end may be the VMM's.
    pub stream: UnixStream,
}

/// A region as it is sent. What else is there is left alone: other versions have other fields.
#[derive(Debug, Deserialize)]
struct Sent {
    base_host_virt_addr: u64,
    size: u64,
    offset: u64,
    page_size: Option<u64>,
    /// In bytes too, in spite of its name.
    page_size_kib: Option<u64>,
}

impl Handshake {
    /// Receives it, of a VMM whose pages are to be served. All of it comes within `patience`, or not at all;
    /// `template_bytes` is what the regions may name.
    pub fn receive(stream: UnixStream, template_bytes: u64, patience: Duration) -> Result<Handshake, HandshakeError> {
        let handshake = Handshake::receive_any(stream, template_bytes, patience)?;
        let reports_removals = handshake.uffd.reports_removals();
        if !reports_removals.map_err(|error| HandshakeError::NoUserfaultfd(Arc::new(error)))? {
            return Err(HandshakeError::NoRemovals);
        }
        Ok(handshake)
    }

    /// As [`Handshake::receive`], for a userfaultfd with any features.
    pub fn receive_any(
        stream: UnixStream,
        template_bytes: u64,
        patience: Duration,
    ) -> Result<Handshake, HandshakeError> {
        // Comes first, while the process that connected can still be identified.
        let peer = Process::peer(&stream).map_err(|error| HandshakeError::Peer(Arc::new(error)))?;
        let (sent, mut received) = receive_message(&stream, patience)?;
        let layout = layout_of(&sent, template_bytes)?;
        let fd = match (received.pop(), received.len()) {
            (Some(fd), 0) => fd,
            (None, _) => return Err(HandshakeError::Descriptors(0)),
            (Some(_), others) => return Err(HandshakeError::Descriptors(others + 1)),
        };
        // The userfaultfd has been initialised by its creator, and refuses a second time.
        let uffd = Userfaultfd::adopt(fd).map_err(|error| HandshakeError::NoUserfaultfd(Arc::new(error)))?;
        // The connection is polled for a hang-up, and never waited for.
        stream
            .set_nonblocking(true)
            .map_err(|error| HandshakeError::Receive(Arc::new(error)))?;
        Ok(Handshake {
            peer,
            uffd,
            layout,
            stream,
        })
    }
}

/// There is no framing: the message ends where the list does.
fn receive_message(stream: &UnixStream, patience: Duration) -> Result<(Vec<Sent>, Vec<OwnedFd>), HandshakeError> {
    let until = Instant::now() + patience;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => HandshakeError::Silent(patience),
        _ => HandshakeError::Receive(Arc::new(error)),
    };
    let mut buffer = vec![0u8; MESSAGE_BYTES_MAX + 1];
    let mut received = Vec::new();
    let mut len = 0;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(HandshakeError::Silent(patience));
        }
        stream.set_read_timeout(Some(left)).map_err(failed)?;
        len += match fds::receive_with_fds(stream, &mut buffer[len..], &mut received) {
            Ok(0) => return Err(HandshakeError::HungUp(len)),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(failed(error)),
        };
        if received.len() > 1 {
            return Err(HandshakeError::Descriptors(received.len()));
        }
        if len > MESSAGE_BYTES_MAX {
            return Err(HandshakeError::TooLong);
        }
        if let Some(regions) = parse(&buffer[..len])? {
            return Ok((regions, received));
        }
    }
}

/// `None` while the message is not complete.
fn parse(bytes: &[u8]) -> Result<Option<Vec<Sent>>, HandshakeError> {
    match serde_json::from_slice::<Vec<Sent>>(bytes) {
        Ok(regions) => Ok(Some(regions)),
        Err(error) if error.is_eof() => Ok(None),
        Err(error) => Err(HandshakeError::Malformed(error.to_string())),
    }
}

fn layout_of(sent: &[Sent], template_bytes: u64) -> Result<Layout, HandshakeError> {
    if !(1..=REGIONS_MAX).contains(&sent.len()) {
        return Err(HandshakeError::RegionCount(sent.len()));
    }
    let mut regions = Vec::with_capacity(sent.len());
    for (index, sent) in sent.iter().enumerate() {
        let region = sent
            .region(template_bytes)
            .map_err(|reason| HandshakeError::Region { index, reason })?;
        regions.push(region);
    }
    Layout::new(regions).map_err(|(index, reason)| HandshakeError::Region { index, reason })
}

impl Sent {
    fn region(&self, template_bytes: u64) -> Result<Region, LayoutError> {
        let page_bytes = match (self.page_size, self.page_size_kib) {
            (Some(new), Some(old)) if new != old => return Err(LayoutError::TwoPageSizes(new, old)),
            (Some(bytes), _) | (None, Some(bytes)) => bytes,
            (None, None) => return Err(LayoutError::NoPageSize),
        };
        Region::new(
            self.base_host_virt_addr,
            self.size,
            self.offset,
            page_bytes,
            template_bytes,
        )
    }
}

/// The layout that a list of regions describes, for tests without a userfaultfd.
pub fn layout_from_json(bytes: &[u8], template_bytes: u64) -> Result<Option<Layout>, HandshakeError> {
    parse(bytes)?.map(|sent| layout_of(&sent, template_bytes)).transpose()
}
