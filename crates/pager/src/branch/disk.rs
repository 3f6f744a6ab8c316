//! The instant of a VM's disk, and its part in an audit.
//!
//! The disk's server shares a word with the pager, for each disk: the number of the disk's epoch. The server looks at it before
//! each write, and freezes the disk first if the number has changed. So a pause costs one store, however much was written.

use crate::error::{PagerError, Result, Step};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::memfd::Mapping;
use forkd_protocol::disk::{DiskOp, DiskReply, DiskRequest};
use forkd_protocol::{BranchDisk, FaultCode, MAX_LINE_BYTES};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Longest time for the disk's server to read all blocks of a disk.
const AUDIT_MAX: Duration = Duration::from_secs(600);
/// Longest time until a branch that was given up stops waiting for the server.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The word of a disk.
#[derive(Debug)]
pub struct DiskEpoch {
    page: Mapping,
}

impl DiskEpoch {
    /// Maps the page that the disk's server offers at `path`.
    pub fn open(path: &str) -> Result<DiskEpoch> {
        let describe = || format!("opening the epoch of a disk at {path}");
        let file = OpenOptions::new().read(true).write(true).open(path).step(describe)?;
        let bytes = file.metadata().step(describe)?.len();
        if bytes != PAGE_SIZE as u64 {
            let message = format!("the epoch of a disk at {path} has {bytes} bytes instead of a page");
            return Err(PagerError::new(FaultCode::BadRequest, message));
        }
        let page = Mapping::read_write(&file, PAGE_SIZE).step(describe)?;
        Ok(DiskEpoch { page })
    }

    /// Begins the next epoch, and returns its number. The VM is stopped: all of its writes have been answered.
    pub fn advance(&self) -> u64 {
        self.page.word(0).fetch_add(1, Ordering::AcqRel) + 1
    }
}

/// The server of a VM's disk, which is asked inside the pause to note what each block holds.
#[derive(Debug)]
pub struct DiskAuditor {
    stream: UnixStream,
    key: String,
}

impl DiskAuditor {
    pub fn connect(disk: &BranchDisk) -> Result<DiskAuditor> {
        let describe = || format!("connecting to the disk's server at {}", disk.server_socket);
        let stream = UnixStream::connect(&disk.server_socket).step(describe)?;
        stream.set_read_timeout(Some(LOOK_EVERY)).step(describe)?;
        stream.set_write_timeout(Some(LOOK_EVERY)).step(describe)?;
        let key = disk.key.clone();
        Ok(DiskAuditor { stream, key })
    }

    /// Returns once the server has noted all blocks. The VM is stopped.
    pub fn note(self, is_given_up: impl Fn() -> bool) -> Result<()> {
        let asking = || "asking the disk's server for an audit".to_owned();
        let op = DiskOp::StartAudit { key: self.key };
        let mut line = serde_json::to_vec(&DiskRequest { id: 1, op }).expect("a request is plain data");
        line.push(b'\n');
        (&self.stream).write_all(&line).step(asking)?;
        let mut reply = Vec::new();
        let mut lines = BufReader::new(&self.stream).take(MAX_LINE_BYTES as u64);
        let start = Instant::now();
        loop {
            match lines.read_until(b'\n', &mut reply) {
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock && start.elapsed() < AUDIT_MAX => {}
                Err(error) => return Err(error).step(asking),
            }
            if is_given_up() {
                return Err(PagerError::new(FaultCode::Cancelled, "the branch was given up"));
            }
        }
        match serde_json::from_slice(&reply) {
            Ok(DiskReply::Ok { .. }) => Ok(()),
            Ok(DiskReply::Err { error, .. }) => Err(PagerError::new(error.code, error.message)),
            Err(error) => {
                let message = format!("the disk's server answered an audit with what is no reply: {error}");
                Err(PagerError::new(FaultCode::Io, message))
            }
        }
    }
}
