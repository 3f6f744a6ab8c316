//! Snapshots: two files, one with the memory and one with the rest.

use crate::config::{Config, Fault};
use crate::extensions::Load;
use crate::memory::GuestMemory;
use crate::schema::{BackendType, SnapshotCreate, SnapshotType};
use crate::vm::{Resources, Vm};
use crate::vmstate::VmState;
use forkd_linux_sys::PAGE_SIZE;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Since this version a diff needs no tracking: it has every page that is there.
const DIFF_WITHOUT_TRACKING: (u32, u32) = (1, 13);

pub fn create(vm: &Vm, asked: &SnapshotCreate, config: &Config) -> Result<(), String> {
    vm.require_paused()?;
    let diff = asked.snapshot_type == SnapshotType::Diff;
    let (major, minor) = DIFF_WITHOUT_TRACKING;
    if diff && vm.memory.is_dirty(0).is_none() && !config.is_at_least(major, minor) {
        return Err(
            "Create snapshot error: Diff snapshots are not allowed on uVMs with dirty page tracking disabled.".into(),
        );
    }
    vm.reset_connections();
    let state = vm.state(config).write(Path::new(&asked.snapshot_path));
    state.map_err(|error| format!("Create snapshot error: Cannot write the microVM state: {error}"))?;
    write_memory(&vm.memory, Path::new(&asked.mem_file_path), diff, config.fault)
        .map_err(|error| format!("Create snapshot error: Cannot write memory file: {error}"))?;
    vm.memory.forget_dirty();
    Ok(())
}

/// All pages, or those that are dirty, each at its own place.
fn write_memory(memory: &GuestMemory, path: &Path, diff: bool, fault: Option<Fault>) -> io::Result<()> {
    let file = File::create(path)?;
    file.set_len(memory.len() as u64)?;
    let pages = memory.len() / PAGE_SIZE;
    for page in 0..pages {
        if fault == Some(Fault::DiskFull) && page == pages / 2 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        if !diff || memory.is_dirty(page).unwrap_or(true) {
            file.write_all_at(memory.page(page), (page * PAGE_SIZE) as u64)?;
        }
    }
    Ok(())
}

pub fn load(Load { asked, shared }: &Load, config: &Config) -> Result<Vm, String> {
    let fail = |why: String| format!("Load snapshot error: Failed to restore from snapshot: {why}");
    let (backend, path) = match (&asked.mem_backend, &asked.mem_file_path) {
        (Some(backend), None) => (backend.backend_type, &backend.backend_path),
        (None, Some(path)) => (BackendType::File, path),
        _ => return Err(fail("either `mem_backend` or `mem_file_path` is to be given".into())),
    };
    let state = VmState::read(Path::new(&asked.snapshot_path)).map_err(fail)?;
    let tracked = asked.track_dirty_pages || asked.enable_diff_snapshots;
    let (path, sizes) = (Path::new(path), config.regions(state.machine.mem_size_mib));
    let memory = match backend {
        BackendType::File => GuestMemory::of_file(path, &sizes, *shared, tracked, &state.writers),
        BackendType::Uffd => GuestMemory::of_server(path, &sizes, tracked, &state.writers)
            .map_err(|error| std::io::Error::other(format!("Error creating guest memory from uffd: {error}"))),
    };
    let memory = memory.map_err(|error| fail(format!("Failed to load guest memory: {error}")))?;
    let mut resources = Resources {
        machine: state.machine,
        drives: state.drives,
        interfaces: state.interfaces,
        vsock: state.vsock,
    };
    for wanted in &asked.network_overrides {
        let found = resources
            .interfaces
            .iter_mut()
            .find(|iface| iface.iface_id == wanted.iface_id);
        let missing = || fail(format!("Unknown Network Device: {}", wanted.iface_id));
        found
            .ok_or_else(missing)?
            .host_dev_name
            .clone_from(&wanted.host_dev_name);
    }
    if let Some(wanted) = &asked.vsock_override {
        let vsock = resources
            .vsock
            .as_mut()
            .ok_or_else(|| fail("there is no vsock device to override".into()))?;
        vsock.uds_path.clone_from(&wanted.uds_path);
    }
    memory.set_received(state.received);
    memory.note_load(config);
    Vm::restore(memory, resources, config).map_err(fail)
}
