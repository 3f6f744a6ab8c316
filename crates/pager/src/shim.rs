//! Calls from the shims inside VMMs.

use crate::error::{PagerError, Result, Step};
use crate::idle::{IdleVmms, Job};
use crate::sandbox::{Attachment, Sandbox, Sandboxes};
use forkd_capture::Source;
use forkd_linux_sys::fds;
use forkd_linux_sys::uffd::{Range, Userfaultfd};
use forkd_protocol::plan::{EXTENTS_MAX, Header};
use forkd_protocol::{FaultCode, GuestRegion, PAGE_SIZE, PROTOCOL_VERSION, ShimHello, ShimWants};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A shim that has called says what it wants within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Both messages of a shim are short.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Calls of one VMM at the same time: one, and those of which it has not been noticed yet that they have ended.
const CALLS_MAX: usize = 4;
/// Mappings that a VMM needs for itself.
const OWN_MAPPINGS: usize = 4096;

/// Serves calls until the process ends.
pub fn serve(listener: &UnixListener, sandboxes: &Arc<Sandboxes>, idle: &Arc<IdleVmms>) {
    let callers = Arc::new(Callers::default());
    for stream in listener.incoming().flatten() {
        let (callers, sandboxes, idle) = (callers.clone(), sandboxes.clone(), idle.clone());
        // One that cannot be given a thread is hung up on, and says so in the VMM's log.
        let _ = std::thread::Builder::new().name("shim".into()).spawn(move || {
            if let Err(error) = answer(stream, &callers, &sandboxes, &idle) {
                eprintln!("forkd-pager: a VMM's call failed: {error}");
            }
        });
    }
}

fn answer(mut stream: UnixStream, callers: &Callers, sandboxes: &Sandboxes, idle: &IdleVmms) -> Result<()> {
    stream
        .set_read_timeout(Some(HELLO_TIMEOUT))
        .step(|| "setting a timeout".into())?;
    // Its memory will be read: whose that is must not be the caller's word.
    let pid = fds::peer_pid(&stream).step(|| "asking who calls".into())?;
    let _place = callers.admit(pid)?;
    let hello = read_hello(&mut stream)?;
    let name = match hello.wants {
        ShimWants::Plan => {
            let sandbox = sandboxes.find(&hello.sandbox)?;
            sandbox.admit(pid, &hello.key)?;
            send_plan(&mut stream, &sandbox, None)?;
            sandbox.attach(read_memory(&stream, pid)?)?;
            hello.sandbox
        }
        ShimWants::Nothing => {
            let nothing = Header::default().encode();
            stream
                .write_all(&nothing)
                .step(|| format!("answering {}", hello.sandbox))?;
            sandboxes.attach_again(&hello.sandbox, &hello.key, read_memory(&stream, pid)?)?;
            hello.sandbox
        }
        ShimWants::Wake => {
            let Some(job) = idle.wait_for_job(&hello.sandbox, &hello.key)? else {
                return Ok(());
            };
            let woken = wake(&mut stream, &job, pid, &hello.key);
            // Who asked may have given up, and has ended the VMM then.
            let _ = job.mapped.send(woken.clone());
            woken?;
            job.sandbox.name().into()
        }
    };
    // From here the shim only waits for our end, and we for its.
    stream.set_read_timeout(None).step(|| "setting a timeout".into())?;
    while matches!(stream.read(&mut [0u8; 64]), Ok(1..)) {}
    sandboxes.detach(&name, pid);
    Ok(())
}

/// How many calls each process has under way. One process must not use up the pager's threads.
#[derive(Debug, Default)]
struct Callers {
    calls: Mutex<HashMap<i32, usize>>,
}

/// A call that counts for as long as this lives.
struct Place<'a> {
    callers: &'a Callers,
    pid: i32,
}

impl Callers {
    fn admit(&self, pid: i32) -> Result<Place<'_>> {
        let mut calls = self.calls.lock().expect("no panic while held");
        let count = calls.entry(pid).or_default();
        if *count >= CALLS_MAX {
            let message = format!("process {pid} has {CALLS_MAX} calls under way already");
            return Err(PagerError::new(FaultCode::Busy, message));
        }
        *count += 1;
        Ok(Place { callers: self, pid })
    }
}

impl Drop for Place<'_> {
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

/// Gives a VMM that has waited its VM.
fn wake(stream: &mut UnixStream, job: &Job, pid: i32, key: &str) -> Result<()> {
    job.sandbox.admit(pid, key)?;
    send_plan(stream, &job.sandbox, Some(&job.device_state))?;
    job.sandbox.attach(read_memory(stream, pid)?)
}

fn read_hello(stream: &mut UnixStream) -> Result<ShimHello> {
    let mut line = Vec::new();
    let mut byte = [0u8; 1];
    while line.len() < MESSAGE_BYTES_MAX && stream.read(&mut byte).step(|| "reading a shim's greeting".into())? == 1 {
        if byte[0] == b'\n' {
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

/// Sends what to map, and to a VMM that has waited also what it is from now on.
fn send_plan(stream: &mut UnixStream, sandbox: &Sandbox, device_state: Option<&[u8]>) -> Result<()> {
    let plan = sandbox.stack.plan(extents_max())?;
    let name = device_state.map_or("", |_| sandbox.name());
    let device_state = device_state.unwrap_or_default();
    let header = Header {
        mem_bytes: sandbox.announced.mem_bytes,
        fds: plan.layers.len() as u64,
        extents: plan.extents.len() as u64,
        name_bytes: name.len() as u64,
        device_state_bytes: device_state.len() as u64,
    };
    let files: Vec<_> = plan.layers.iter().map(|layer| layer.file.as_fd()).collect();
    let mut batches = files.chunks(fds::FDS_A_MESSAGE_MAX);
    let describe = || format!("sending {} its memory", sandbox.name());
    fds::send_with_fds(stream, &header.encode(), batches.next().unwrap_or(&[])).step(describe)?;
    for batch in batches {
        fds::send_with_fds(stream, &[0], batch).step(describe)?;
    }
    let mut bytes = Vec::new();
    plan.extents.iter().for_each(|extent| extent.encode(&mut bytes));
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(device_state);
    stream.write_all(&bytes).step(describe)
}

/// Each extent over the base can cut a mapping in two.
fn extents_max() -> usize {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    let mappings: usize = text.trim().parse().unwrap_or(65_530);
    (mappings.saturating_sub(OWN_MAPPINGS) / 2).min(EXTENTS_MAX as usize)
}

/// The regions and the userfaultfd, in one message, as Firecracker sends them.
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
    let uffd = received.into_iter().next().map(Userfaultfd::adopt).transpose();
    let uffd = uffd.map_err(|error| bad(error.to_string()))?.map(Arc::new);
    Ok(Attachment { source, uffd })
}
