//! The memory of a Firecracker: lent to it before it starts, and handed over by it when it is to be protected.

use super::Api;
use crate::error::{PagerError, Result, Step};
use crate::memory_file;
use crate::monitor::gone;
use crate::room;
use crate::sandbox::{Attachment, Sandbox};
use crate::stack::Stack;
use forkd_capture::{Listing, Region, Source};
use forkd_linux_sys::fds::{self, Wait};
use forkd_linux_sys::maps::{self, FileId, Mapped};
use forkd_linux_sys::uffd::Range;
use forkd_linux_sys::{PAGE_SIZE, memfd, sparse};
use forkd_page_server::{Handshake, HandshakeError, Layout, Region as Place};
use forkd_protocol::FaultCode;
use serde_json::json;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A VMM that was asked for its memory has handed it over within this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Beside the API's socket, and so in the directory that the process was started in.
const SOCKET: &str = "wp.sock";

/// A file that holds what the layers hold, for one VM to map and to write to.
pub fn lend(stack: &Stack) -> Result<File> {
    let pages = stack
        .visible_runs()
        .map(|(_, _, bytes)| bytes.len() / PAGE_SIZE)
        .sum::<usize>();
    room::check(pages as u64, "the VM's memory")?;
    let file = memfd::create(c"forkd-memory", 0).step(|| "making a memfd for a VM's memory".into())?;
    memory_file::write_stack(stack, None, &file).step(|| "filling a VM's memory".into())?;
    Ok(file)
}

/// Where another process finds a file that this one holds. It is there for as long as it is held.
pub fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// Has a VMM make a userfaultfd of all its memory.
pub fn ask_for(api: &mut Api, sandbox: &Sandbox) -> Result<Attachment> {
    let announced = &sandbox.announced;
    let door = Door::open(Path::new(&announced.monitor_socket).with_file_name(SOCKET))?;
    // What a process is told of files is relative to where it was started.
    api.ask("PUT", "/uffd/wp", Some(&json!({ "socket": SOCKET })))?;
    let stream = door.wait(&announced.sandbox)?;
    let what = |error: HandshakeError| {
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
        Handshake::receive_any(stream, announced.mem_bytes, PATIENCE).map_err(what)?;
    sandbox.admit(peer.pid, "")?;
    if !uffd.protects_shared().step(|| "looking at a userfaultfd".into())? {
        let message = format!("the userfaultfd of {} does not write-protect memory", announced.sandbox);
        return Err(PagerError::new(FaultCode::Unsupported, message));
    }
    let source = source_of(peer.pid, &layout, &sandbox.stack)?;
    Ok(Attachment {
        source,
        uffd: Some(Arc::new(uffd)),
    })
}

/// A socket at which one VMM is waited for.
struct Door {
    listener: UnixListener,
    path: PathBuf,
}

impl Door {
    fn open(path: PathBuf) -> Result<Door> {
        // A pager that has ended may have left its own.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let listener = listener.step(|| format!("listening at {}", path.display()))?;
        Ok(Door { listener, path })
    }

    fn wait(&self, name: &str) -> Result<UnixStream> {
        let came = fds::wait(&[Wait::readable(&self.listener)], Some(PATIENCE)).step(|| "waiting for a VMM".into())?;
        if !came[0] {
            let message = format!("the VMM of {name} did not hand over its memory within {PATIENCE:?}");
            return Err(gone(message));
        }
        let stream = self.listener.accept().and_then(|(stream, _)| {
            stream.set_nonblocking(false)?;
            Ok(stream)
        });
        stream.step(|| format!("accepting at {}", self.path.display()))
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // It may have gone with the VM's directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What is captured of it: of private memory the private pages; of shared memory what its file has.
fn source_of(pid: i32, layout: &Layout, stack: &Arc<Stack>) -> Result<Source> {
    let bad = |what: &str| PagerError::new(FaultCode::BadRequest, format!("the memory of process {pid}: {what}"));
    let places = layout.regions();
    let bytes: u64 = places.iter().map(|place| place.memory.len()).sum();
    // No two regions have a page in common: as many as there are is all of them.
    if bytes != stack.mem_bytes {
        return Err(bad(&format!("{bytes} bytes instead of {}", stack.mem_bytes)));
    }
    if places.iter().any(Place::is_huge) {
        return Err(bad("huge pages cannot be protected one by one"));
    }
    let mut files = Vec::new();
    for place in places {
        files.push(file_of(pid, place).step(|| format!("looking at the memory of process {pid}"))?);
    }
    let regions = places.iter().map(|place| Region {
        memory: place.memory,
        page: place.page,
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

/// A file that is mapped shared.
#[derive(Debug, Clone)]
struct MappedFile {
    id: FileId,
    /// Where it can be opened, whoever has made it.
    path: String,
}

/// The file under a region, `None` for memory that is private.
fn file_of(pid: i32, place: &Place) -> io::Result<Option<MappedFile>> {
    let Range { start, end } = place.memory;
    let mapped = maps::mappings(pid, place.memory)?;
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
    let in_place = place.page * PAGE_SIZE as u64;
    let alike = |other: &Mapped| !other.private && other.file == first.file && page(other) == page(first);
    if !mapped.iter().all(alike) || page(first).wrapping_add(start) != in_place {
        return Err(io::Error::other("a region is not what its file has at its offset"));
    }
    let path = format!("/proc/{pid}/map_files/{:x}-{:x}", first.range.start, first.range.end);
    Ok(Some(MappedFile { id: first.file, path }))
}

/// Memory that is a file, which began as what the layers have.
#[derive(Debug)]
struct SharedFile {
    mapped: MappedFile,
    stack: Arc<Stack>,
}

impl SharedFile {
    /// It is held for a moment only: memory ends with its VM.
    fn open(&self) -> io::Result<File> {
        let file = File::open(&self.mapped.path)?;
        if FileId::of(&file)? != self.mapped.id {
            return Err(io::Error::other("another file is mapped there now"));
        }
        Ok(file)
    }
}

impl Listing for SharedFile {
    /// What the file has, and what the layers have: where only they have something, the guest has given it back.
    fn pages(&self) -> io::Result<Vec<Range>> {
        let mut ranges = sparse::data_ranges(&self.open()?, self.stack.mem_bytes)?;
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
