//! Calls from the shims inside VMMs.

use crate::attachment::Attachment;
use crate::error::{PagerError, Result, Step};
use crate::idle::{IdleVmms, Job, Load};
use crate::inside::InsideWindow;
use crate::sandbox::Sandbox;
use crate::sandboxes::Sandboxes;
use forkd_capture::Source;
use forkd_layers::{Piece, Stack};
use forkd_linux_sys::fds::{self, Wait};
use forkd_linux_sys::sched;
use forkd_linux_sys::uffd::{Range, Userfaultfd};
use forkd_protocol::plan::{self, Header};
use forkd_protocol::{FaultCode, GuestRegion, PAGE_SIZE, PROTOCOL_VERSION, Refresh, ShimHello, ShimWants};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Time limit for a shim's greeting.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest message of a shim, in bytes. Both of its messages are short.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Calls of one VMM at the same time: the current one, and earlier ones that have ended unnoticed.
const CALLS_MAX: usize = 4;

/// Serves calls until the process ends.
pub fn serve(listener: &UnixListener, sandboxes: &Arc<Sandboxes>, idle: &Arc<IdleVmms>) {
    let callers = Arc::new(Callers::default());
    for stream in fds::connections(listener) {
        let (callers, sandboxes, idle) = (callers.clone(), sandboxes.clone(), idle.clone());
        // If no thread can start, the call is closed, and the shim reports that in the VMM's log.
        let _ = std::thread::Builder::new().name("shim".into()).spawn(move || {
            let caller = fds::peer_pid(&stream).map_or("a VMM".into(), |pid| format!("process {pid}"));
            if let Err(error) = answer(stream, &callers, &sandboxes, &idle) {
                forkd_log::line(&caller, &format!("its call failed: {error}"));
            }
        });
    }
}

fn answer(mut stream: UnixStream, callers: &Callers, sandboxes: &Sandboxes, idle: &IdleVmms) -> Result<()> {
    for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
        set(&stream, Some(HELLO_TIMEOUT)).step(|| "setting a timeout".into())?;
    }
    // The pager will read the caller's memory, so the kernel must identify the caller, not the caller itself.
    let pid = fds::peer_pid(&stream).step(|| "asking who calls".into())?;
    let _permit = callers.permit(pid)?;
    let hello = read_hello(&mut stream)?;
    let name = match hello.wants {
        ShimWants::Plan => {
            let sandbox = sandboxes.find(&hello.sandbox)?;
            sandbox.admit(pid, &hello.key)?;
            let plan = Plan {
                name: "",
                memory: &sandbox.mapped,
                refresh: &sandbox.announced.refresh,
                device_state: &[],
            };
            plan.send(&mut stream)?;
            sandbox.attach(read_memory(&stream, pid)?)?;
            hello.sandbox
        }
        ShimWants::Nothing => {
            let nothing = Header::default().encode();
            stream
                .write_all(&nothing)
                .step(|| format!("answering {}", hello.sandbox))?;
            // The previous pager may have been killed in the middle of a pause.
            sched::make_ordinary(pid);
            sandboxes.attach_again(&hello.sandbox, &hello.key, read_memory(&stream, pid)?)?;
            hello.sandbox
        }
        ShimWants::Wake => {
            let jobs = idle.jobs_of(&hello.sandbox, &hello.key)?;
            let Some(name) = serve_waiting(&mut stream, &jobs, pid, &hello.key)? else {
                return Ok(());
            };
            name
        }
    };
    // Each side now only waits for the other to end. Later bytes of the shim are not read.
    while !fds::wait(&[Wait::ending(&stream)], None).step(|| format!("waiting for the end of {name}"))?[0] {}
    sandboxes.detach(&name, pid);
    Ok(())
}

/// The number of calls of each process. The limit keeps one process from using up the pager's threads.
#[derive(Debug, Default)]
struct Callers {
    calls: Mutex<HashMap<i32, usize>>,
}

/// The permit of one call, which counts until this is dropped.
struct CallPermit<'a> {
    callers: &'a Callers,
    pid: i32,
}

impl Callers {
    fn permit(&self, pid: i32) -> Result<CallPermit<'_>> {
        let mut calls = self.calls.lock().expect("no panic while held");
        let count = calls.entry(pid).or_default();
        if *count >= CALLS_MAX {
            let message = format!("process {pid} has {CALLS_MAX} calls under way already");
            return Err(PagerError::new(FaultCode::Busy, message));
        }
        *count += 1;
        Ok(CallPermit { callers: self, pid })
    }
}

impl Drop for CallPermit<'_> {
    fn drop(&mut self) {
        let mut calls = self.callers.calls.lock().expect("no panic while held");
        if let Some(count) = calls.get_mut(&self.pid) {
            *count -= 1;
            if *count == 0 {
                calls.remove(&self.pid);
            }
        }
    }
}

/// Gives a waiting VMM what it is to load. Returns the name of its VM, or `None` once the VMM is no longer wanted.
fn serve_waiting(stream: &mut UnixStream, jobs: &Receiver<Job>, pid: i32, key: &str) -> Result<Option<String>> {
    while let Ok(job) = jobs.recv() {
        let load = match job {
            Job::Load(load) => load,
            Job::Follow(name) => return Ok(Some(name)),
        };
        let given = give(stream, &load, pid, key);
        // The caller may have stopped waiting. It has then ended the VMM.
        let _ = load.mapped.send(given.clone());
        given?;
        if let Some(sandbox) = load.vm {
            return Ok(Some(sandbox.name().into()));
        }
    }
    Ok(None)
}

/// Gives a waiting VMM memory and device state, and takes over its memory.
fn give(stream: &mut UnixStream, load: &Load, pid: i32, key: &str) -> Result<Attachment> {
    let vm = load.vm.as_deref();
    if let Some(sandbox) = vm {
        sandbox.admit(pid, key)?;
    }
    let plan = Plan {
        name: vm.map_or("", Sandbox::name),
        memory: &load.memory,
        refresh: &load.refresh,
        device_state: &load.device_state,
    };
    plan.send(stream)?;
    let attachment = read_memory(stream, pid)?;
    if let Some(sandbox) = vm {
        sandbox.attach(attachment.clone())?;
    }
    Ok(attachment)
}

fn read_hello(stream: &mut UnixStream) -> Result<ShimHello> {
    let mut line = Vec::new();
    let mut byte = [0u8; 1];
    let until = Instant::now() + HELLO_TIMEOUT;
    while line.len() < MESSAGE_BYTES_MAX && stream.read(&mut byte).step(|| "reading a shim's greeting".into())? == 1 {
        if byte[0] == b'\n' || Instant::now() > until {
            break;
        }
        line.push(byte[0]);
    }
    let hello: ShimHello = serde_json::from_slice(&line).map_err(|error| {
        PagerError::new(
            FaultCode::BadRequest,
            format!("a shim's greeting is not understood: {error}"),
        )
    })?;
    if hello.protocol != PROTOCOL_VERSION {
        let message = format!(
            "the shim of {} speaks version {}, this pager {PROTOCOL_VERSION}",
            hello.sandbox, hello.protocol
        );
        return Err(PagerError::new(FaultCode::BadRequest, message));
    }
    Ok(hello)
}

/// The plan of the mappings. A VMM that waited also gets a device state, and its VM's name unless it loads ahead.
struct Plan<'a> {
    name: &'a str,
    memory: &'a Stack,
    refresh: &'a [Refresh],
    device_state: &'a [u8],
}

impl Plan<'_> {
    fn send(&self, stream: &mut UnixStream) -> Result<()> {
        let (layers, pieces) = (&self.memory.layers, self.memory.plan());
        // Memory of zeros has no sibling that it must differ from.
        let refreshes = if layers.is_empty() { &[] } else { self.refresh };
        let header = Header {
            mem_bytes: self.memory.length,
            fds: layers.len() as u64,
            extents: pieces.len() as u64,
            name_bytes: self.name.len() as u64,
            device_state_bytes: self.device_state.len() as u64,
            refreshes: refreshes.len() as u64,
        };
        let files: Vec<_> = layers.iter().map(|layer| layer.file.as_fd()).collect();
        let mut batches = files.chunks(fds::FDS_PER_MESSAGE_MAX);
        let describe = || "sending a VMM its memory".into();
        fds::send_with_fds(stream, &header.encode(), batches.next().unwrap_or(&[])).step(describe)?;
        for batch in batches {
            fds::send_with_fds(stream, &[0], batch).step(describe)?;
        }
        let mut bytes = Vec::new();
        pieces
            .into_iter()
            .map(extent_of)
            .for_each(|extent| extent.encode(&mut bytes));
        refreshes.iter().for_each(|refresh| refresh.encode(&mut bytes));
        bytes.extend_from_slice(self.name.as_bytes());
        bytes.extend_from_slice(self.device_state);
        stream.write_all(&bytes).step(describe)
    }
}

fn extent_of(Piece { layer, extent }: Piece) -> plan::Extent {
    plan::Extent {
        fd: layer as u64,
        guest_page: extent.page,
        file_page: extent.slot,
        pages: extent.pages,
    }
}

/// Receives the regions and the userfaultfd, in one message, in Firecracker's format. The page of a window may follow.
fn read_memory(stream: &UnixStream, pid: i32) -> Result<Attachment> {
    let mut buffer = vec![0u8; MESSAGE_BYTES_MAX];
    let mut received: Vec<OwnedFd> = Vec::new();
    let got = fds::receive_with_fds(stream, &mut buffer, &mut received).step(|| "receiving a VMM's memory".into())?;
    if got == 0 {
        return Err(PagerError::new(
            FaultCode::VmGone,
            format!("the VMM of process {pid} ended before it mapped its memory"),
        ));
    }
    let bad = |what: String| PagerError::new(FaultCode::BadRequest, format!("the memory of process {pid}: {what}"));
    let regions: Vec<GuestRegion> = serde_json::from_slice(&buffer[..got]).map_err(|error| bad(error.to_string()))?;
    let [region] = regions.as_slice() else {
        return Err(bad(format!("{} regions instead of one", regions.len())));
    };
    let start = region.base_host_virt_addr;
    let end = start
        .checked_add(region.size)
        .filter(|end| *end > start && (start | end) % PAGE_SIZE == 0)
        .ok_or_else(|| bad("its region has no end, or does not consist of pages".into()))?;
    let source = Source::new(pid, Range { start, end });
    // Open now, while the caller is connected: later another process may have its pid.
    source.open().step(|| format!("opening the memory of process {pid}"))?;
    let mut received = received.into_iter();
    let uffd = received.next().map(Userfaultfd::adopt).transpose();
    let uffd = uffd.map_err(|error| bad(error.to_string()))?;
    if let Some(uffd) = &uffd
        && uffd.reports_changes().step(|| "looking at a userfaultfd".into())?
    {
        return Err(bad(
            "its userfaultfd reports changes, for which the pager would have to wait".into(),
        ));
    }
    let uffd = uffd.map(Arc::new);
    let window = received
        .next()
        .map(|page| InsideWindow::adopt(page, stream))
        .transpose();
    let window = window
        .step(|| format!("adopting the window of process {pid}"))?
        .map(Arc::new);
    Ok(Attachment { source, uffd, window })
}
