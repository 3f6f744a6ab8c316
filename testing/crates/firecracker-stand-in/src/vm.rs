//! A VM: its memory, the socket to its guest, and whether it runs.

use crate::agent::Agent;
use crate::config::Config;
use crate::memory::GuestMemory;
use crate::schema::{BootSource, Drive, MachineConfig, NetworkInterface, Vsock};
use crate::vmstate::VmState;
use crate::vsock::VsockDevice;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Where the kernel is loaded to.
const KERNEL_OFFSET: usize = 16 << 20;
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// Configuration of a VM, except its memory.
#[derive(Clone)]
pub struct Resources {
    pub machine: MachineConfig,
    pub drives: Vec<Drive>,
    pub interfaces: Vec<NetworkInterface>,
    pub vsock: Option<Vsock>,
}

pub struct Vm {
    pub memory: GuestMemory,
    pub resources: Resources,
    pub is_paused: bool,
    vsock: Option<VsockDevice>,
}

impl Vm {
    /// Loads a kernel, as far as that goes without a processor. The VM stands still yet.
    pub fn boot(resources: Resources, source: &BootSource, config: &Config) -> Result<Vm, String> {
        let kernel = fs::read(&source.kernel_image_path)
            .map_err(|error| format!("The kernel file cannot be opened: {error}"))?;
        if !kernel.starts_with(ELF_MAGIC) {
            return Err("Cannot load kernel due to invalid memory configuration or invalid kernel image: Kernel Loader: failed to load ELF kernel image: Invalid ELF magic number".into());
        }
        let memory = GuestMemory::empty(
            &config.regions(resources.machine.mem_size_mib),
            resources.machine.track_dirty_pages,
        )
        .map_err(|error| format!("Cannot create guest memory: {error}"))?;
        memory.load(KERNEL_OFFSET, &kernel)?;
        if let Some(path) = &source.initrd_path {
            let initrd = fs::read(path).map_err(|error| format!("Cannot load initrd: {error}"))?;
            let offset = memory
                .len()
                .checked_sub(initrd.len())
                .ok_or("Cannot load initrd: it does not fit.")?;
            memory.load(offset & !0xfff, &initrd)?;
        }
        Vm::assemble(memory, resources, config)
    }

    /// A VM as it was, which stands still.
    pub fn restore(memory: GuestMemory, resources: Resources, config: &Config) -> Result<Vm, String> {
        Vm::assemble(memory, resources, config)
    }

    fn assemble(memory: GuestMemory, resources: Resources, config: &Config) -> Result<Vm, String> {
        for drive in &resources.drives {
            let path = drive.path_on_host.as_deref().unwrap_or_default();
            fs::File::open(path)
                .map_err(|error| format!("Unable to open the block device's backing file {path}: {error}"))?;
        }
        let vsock = match &resources.vsock {
            None => None,
            Some(vsock) => {
                let agent = config
                    .agent
                    .as_ref()
                    .map(|program| Agent::start(Path::new(program)))
                    .transpose()?;
                Some(VsockDevice::listen(
                    &vsock.uds_path,
                    agent.map(Arc::new),
                    memory.receiver(),
                )?)
            }
        };
        Ok(Vm {
            memory,
            resources,
            is_paused: true,
            vsock,
        })
    }

    pub fn set_paused(&mut self, paused: bool) {
        self.memory.set_running(!paused);
        if let Some(vsock) = &self.vsock {
            vsock.set_running(!paused);
        }
        self.is_paused = paused;
    }

    pub fn require_paused(&self) -> Result<(), String> {
        if self.is_paused {
            return Ok(());
        }
        Err("Create snapshot error: Cannot save the microVM state: Failed to save the vCPUs: operation not allowed: save/restore unavailable while running".into())
    }

    /// A snapshot ends what is connected, as Firecracker's vsock device does it.
    pub fn reset_connections(&self) {
        self.memory.end_receiving();
        if let Some(vsock) = &self.vsock {
            vsock.reset();
        }
    }

    pub fn state(&self, config: &Config) -> VmState {
        let Resources {
            machine,
            drives,
            interfaces,
            vsock,
        } = self.resources.clone();
        VmState {
            vmm_version: config.version.clone(),
            machine,
            drives,
            interfaces,
            vsock,
            writers: self.memory.writers(),
            received: self.memory.received(),
        }
    }
}
