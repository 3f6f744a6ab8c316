//! The memory of a Firecracker VM: lent to it before it starts, and handed over for write-protection.

use crate::attachment::Attachment;
use crate::error::{PagerError, Result, Step};
use forkd_capture::{Listing, Region, Source};
use forkd_layers::{Stack, flat_file, host_memory};
use forkd_linux_sys::fds::{self, Wait};
use forkd_linux_sys::maps::{self, FileId, Mapped};
use forkd_linux_sys::uffd::{Range, Userfaultfd};
use forkd_linux_sys::{PAGE_SIZE, memfd, sparse};
use forkd_page_server::{Handshake, HandshakeError, Layout, Region as LayoutRegion};
use forkd_protocol::{Announce, FaultCode};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for a VMM to hand over its memory.
const PATIENCE: Duration = Duration::from_secs(5);
/// The name of the socket. It lies beside the API's socket, in Firecracker's working directory, against which
/// Firecracker resolves paths.
pub const SOCKET: &str = "wp.sock";

/// Creates a file with the content of the layers, for one VM to map and to write to.
pub fn lend(stack: &Stack) -> Result<File> {
    let pages = stack
        .visible_runs()
        .map(|(_, _, bytes)| bytes.len() / PAGE_SIZE)
        .sum::<usize>();
    host_memory::require(pages as u64, "the VM's memory")?;
    let file = memfd::create(c"forkd-memory", 0).step(|| "making a memfd for a VM's memory".into())?;
    flat_file::write_stack(stack, None, &file).step(|| "filling a VM's memory".into())?;
    Ok(file)
}

/// The path at which another process can open a file of this one, while this one keeps it open.
pub fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// Registers the memory, which tests whether a userfaultfd can protect it. The features that its creator requested do
/// not tell: most programs cannot name the one for shared memory, which the kernel does not insist on.
fn register(uffd: &Userfaultfd, source: &Source, name: &str) -> Result<()> {
    for region in source.regions() {
        uffd.register_write_protect(region.memory).map_err(|error| {
            let message =
                format!("the memory of {name} cannot be write-protected by the userfaultfd that came: {error}");
            PagerError::new(FaultCode::Unsupported, message)
        })?;
    }
    Ok(())
}

/// The socket at which one VMM hands over its memory.
pub struct HandoverSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl HandoverSocket {
    pub fn open(announced: &Announce) -> Result<HandoverSocket> {
        let path = Path::new(&announced.monitor_socket).with_file_name(SOCKET);
        // An earlier pager may have left its socket here.
        let listener = fds::listen(&path, None).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let listener = listener.step(|| format!("listening at {}", path.display()))?;
        Ok(HandoverSocket { listener, path })
    }

    /// Waits for the VMM, and receives its memory, which began with the content of `stack`. Fails with `VmGone` after [`PATIENCE`].
    pub fn receive(&self, announced: &Announce, stack: &Arc<Stack>) -> Result<Attachment> {
        let stream = self.accept(&announced.sandbox)?;
        let refused = |error: HandshakeError| {
            let code = match error {
                HandshakeError::Silent(_) | HandshakeError::HungUp(_) => FaultCode::VmGone,
                _ => FaultCode::BadRequest,
            };
            PagerError::new(
                code,
                format!("the VMM of {} handed over no memory: {error}", announced.sandbox),
            )
        };
        let Handshake { peer, uffd, layout, .. } =
            Handshake::receive_any(stream, announced.mem_bytes, PATIENCE).map_err(refused)?;
        let source = source_of(peer.pid, &layout, stack)?;
        // Open now, while the VMM is connected: later another process may have its pid.
        source
            .open()
            .step(|| format!("opening the memory of process {}", peer.pid))?;
        register(&uffd, &source, &announced.sandbox)?;
        Ok(Attachment {
            source,
            uffd: Some(Arc::new(uffd)),
            window: None,
        })
    }

    fn accept(&self, name: &str) -> Result<UnixStream> {
        let came = fds::wait(&[Wait::readable(&self.listener)], Some(PATIENCE)).step(|| "waiting for a VMM".into())?;
        if !came[0] {
            let message = format!("the VMM of {name} did not hand over its memory within {PATIENCE:?}");
            return Err(PagerError::gone(message));
        }
        let stream = self.listener.accept().and_then(|(stream, _)| {
            stream.set_nonblocking(false)?;
            Ok(stream)
        });
        stream.step(|| format!("accepting at {}", self.path.display()))
    }
}

impl Drop for HandoverSocket {
    fn drop(&mut self) {
        // The file may have been removed with the VM's directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The memory that a capture lists: the private pages of private memory, or the content of the file of shared memory.
fn source_of(pid: i32, layout: &Layout, stack: &Arc<Stack>) -> Result<Source> {
    let bad = |what: &str| PagerError::new(FaultCode::BadRequest, format!("the memory of process {pid}: {what}"));
    let laid_out = layout.regions();
    let bytes: u64 = laid_out.iter().map(|region| region.memory.len()).sum();
    // Regions do not overlap, so the right number of bytes means all of memory.
    if bytes != stack.length {
        return Err(bad(&format!("{bytes} bytes instead of {}", stack.length)));
    }
    if laid_out.iter().any(LayoutRegion::is_huge) {
        return Err(bad("huge pages cannot be protected one by one"));
    }
    let mut files = Vec::new();
    for region in laid_out {
        files.push(file_of(pid, region).step(|| format!("looking at the memory of process {pid}"))?);
    }
    let regions = laid_out.iter().map(|region| Region {
        memory: region.memory,
        page: region.page,
    });
    let regions = regions.collect();
    match files.iter().flatten().next() {
        None => Ok(Source::of_regions(pid, regions, None)),
        Some(first)
            if files
                .iter()
                .all(|file| file.as_ref().is_some_and(|file| file.id == first.id)) =>
        {
            let listing = SharedFile {
                mapped: first.clone(),
                stack: stack.clone(),
            };
            listing.open().step(|| format!("opening {}", first.path))?;
            Ok(Source::of_regions(pid, regions, Some(Arc::new(listing))))
        }
        Some(_) => Err(bad("its regions are not of one file")),
    }
}

/// A file with a shared mapping.
#[derive(Debug, Clone)]
struct MappedFile {
    id: FileId,
    /// Path at which the file can be opened, even if another program created it.
    path: String,
}

/// The file under a region, `None` for memory that is private.
fn file_of(pid: i32, region: &LayoutRegion) -> io::Result<Option<MappedFile>> {
    let Range { start, end } = region.memory;
    let mapped = maps::mappings(pid, region.memory)?;
    let covered = mapped.windows(2).all(|pair| pair[0].range.end == pair[1].range.start)
        && mapped.first().is_some_and(|first| first.range.start <= start)
        && mapped.last().is_some_and(|last| last.range.end >= end);
    let Some(first) = mapped.first().filter(|_| covered) else {
        return Err(io::Error::other("a region is not mapped"));
    };
    if mapped.iter().all(|other| other.private) {
        return Ok(None);
    }
    let page = |mapped: &Mapped| mapped.offset.wrapping_sub(mapped.range.start);
    let in_file = region.page * PAGE_SIZE as u64;
    let alike = |other: &Mapped| !other.private && other.file == first.file && page(other) == page(first);
    if !mapped.iter().all(alike) || page(first).wrapping_add(start) != in_file {
        return Err(io::Error::other("a region is not what its file has at its offset"));
    }
    let path = format!("/proc/{pid}/map_files/{:x}-{:x}", first.range.start, first.range.end);
    Ok(Some(MappedFile { id: first.file, path }))
}

/// Memory that is a file, which began with the content of the layers.
#[derive(Debug)]
struct SharedFile {
    mapped: MappedFile,
    stack: Arc<Stack>,
}

impl SharedFile {
    /// Opens the file briefly: memory must end with its VM.
    fn open(&self) -> io::Result<File> {
        let file = File::open(&self.mapped.path)?;
        if FileId::of(&file)? != self.mapped.id {
            return Err(io::Error::other("another file is mapped there now"));
        }
        Ok(file)
    }
}

impl Listing for SharedFile {
    /// The pages of the file, and those of the layers: a page that only the layers have was freed by the guest.
    fn pages(&self) -> io::Result<Vec<Range>> {
        let mut ranges = sparse::data_ranges(&self.open()?, self.stack.length)?;
        ranges.extend(self.stack.visible_runs().map(|(_, page, bytes)| {
            let start = page * PAGE_SIZE as u64;
            Range {
                start,
                end: start + bytes.len() as u64,
            }
        }));
        Ok(ranges)
    }
}

#[cfg(test)]
mod tests;
