//! Gives a VM its own random numbers before it runs, where no shim in the VMM does so. See `forkd_protocol::refresh`.
//!
//! The memory of a Firecracker VM exists in one of three ways. A file lent to one VM is changed before it is mapped.
//! Served pages are changed as they are served (`forkd_page_server::refreshed`). A file that several VMs map is changed
//! in the memory of the process that has loaded it.

use crate::error::{PagerError, Result, Step};
use forkd_linux_sys::maps::{self, FileId, Mapped};
use forkd_linux_sys::process::Memory;
use forkd_linux_sys::uffd::Range;
use forkd_page_server::change;
use forkd_protocol::refresh::check_all;
use forkd_protocol::{FaultCode, Refresh, RefreshMapped};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Applies `refreshes` to a file that is the memory of one VM.
pub fn apply_to_file(refreshes: &[Refresh], file: &File) -> Result<()> {
    for refresh in refreshes {
        let mut bytes = vec![0; refresh.bytes as usize];
        let describe = || "changing a VM's memory".to_owned();
        file.read_exact_at(&mut bytes, refresh.at).step(describe)?;
        change(refresh, &mut bytes).step(|| "drawing random bytes".into())?;
        file.write_all_at(&bytes, refresh.at).step(describe)?;
    }
    Ok(())
}

/// Applies refreshes to memory that one process has mapped privately from a file. Other processes do not see the change.
pub fn apply_to_mapped(request: &RefreshMapped) -> Result<()> {
    let RefreshMapped {
        pid,
        mem_bytes,
        path,
        refresh: refreshes,
    } = request;
    check(refreshes, *mem_bytes)?;
    let file = File::open(path).step(|| format!("opening {path}"))?;
    let file = FileId::of(&file).step(|| format!("looking at {path}"))?;
    let everywhere = Range {
        start: 0,
        end: u64::MAX,
    };
    let mapped = maps::mappings(*pid, everywhere).step(|| format!("looking at the memory of process {pid}"))?;
    let describe = || format!("changing the memory of process {pid}");
    let memory = Memory::open_writable(*pid).step(describe)?;
    for refresh in refreshes {
        let Some(address) = address_of(refresh, file, &mapped) else {
            let message = format!("process {pid} has not mapped byte {} of {path}", refresh.at);
            return Err(PagerError::new(FaultCode::BadRequest, message));
        };
        let mut bytes = vec![0; refresh.bytes as usize];
        memory.read_into(address, &mut bytes).step(describe)?;
        change(refresh, &mut bytes).step(|| "drawing random bytes".into())?;
        memory.write(address, &bytes).step(describe)?;
    }
    Ok(())
}

fn address_of(refresh: &Refresh, file: FileId, mapped: &[Mapped]) -> Option<u64> {
    let holds = |mapped: &&Mapped| {
        mapped.private
            && mapped.file.has_inode_of(file)
            && mapped.offset <= refresh.at
            && refresh.at + refresh.bytes <= mapped.offset + mapped.range.len()
    };
    let found = mapped.iter().find(holds)?;
    Some(found.range.start + refresh.at - found.offset)
}

fn check(refreshes: &[Refresh], mem_bytes: u64) -> Result<()> {
    check_all(refreshes, mem_bytes).map_err(|why| PagerError::new(FaultCode::BadRequest, why))
}
