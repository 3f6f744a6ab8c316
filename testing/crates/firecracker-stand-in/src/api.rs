//! The API: which request means what, and when it may be made.

use crate::answer::Answer;
use crate::arguments::Arguments;
use crate::config::{Config, Extension, Fault};
use crate::extensions::{self, Load};
use crate::filters::{self, Moment};
use crate::http::Request;
use crate::schema::*;
use crate::snapshot;
use crate::vm::{Resources, Vm};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const NOT_BEFORE_START: &str = "The requested operation is not supported before starting the microVM.";
const NOT_AFTER_START: &str = "The requested operation is not supported after starting the microVM.";

/// Firecracker's default memory size.
const MEM_MIB_DEFAULT: u64 = 128;
const MEM_MIB_MAX: u64 = 1 << 20;
const VCPUS_MAX: u8 = 32;
/// Below are the addresses of the host and of nobody.
const FIRST_GUEST_CID: u32 = 3;

type Handled = Result<Answer, String>;

pub struct Vmm {
    config: Config,
    arguments: Arguments,
    resources: Resources,
    boot_source: Option<BootSource>,
    vm: Option<Vm>,
    has_run: bool,
}

impl Vmm {
    pub fn new(config: Config, arguments: Arguments) -> Vmm {
        let machine = MachineConfig {
            vcpu_count: 1,
            mem_size_mib: MEM_MIB_DEFAULT,
            smt: false,
            track_dirty_pages: false,
            huge_pages: None,
            cpu_template: None,
        };
        Vmm {
            config,
            arguments,
            resources: Resources {
                machine,
                drives: Vec::new(),
                interfaces: Vec::new(),
                vsock: None,
            },
            boot_source: None,
            vm: None,
            has_run: false,
        }
    }

    pub fn handle(&mut self, request: &Request) -> Answer {
        let path: Vec<&str> = request.path.trim_matches('/').split('/').collect();
        let body = &request.body;
        let handled = match (request.method.as_str(), path.as_slice()) {
            ("GET", [""]) => Ok(self.instance()),
            ("GET", ["version"]) => Ok(Answer::json(&json!({ "firecracker_version": self.config.version }))),
            ("GET", ["machine-config"]) => Ok(Answer::json(&self.machine())),
            ("PUT", ["boot-source"]) => self.configure(body, |vmm, source| {
                vmm.boot_source = Some(source);
                Ok(())
            }),
            ("PUT", ["machine-config"]) => self.configure(body, Vmm::set_machine),
            ("PUT", ["drives", id]) => self.configure(body, |vmm, drive: Drive| vmm.add_drive(id, drive)),
            ("PUT", ["network-interfaces", id]) => self.configure(body, |vmm, iface| vmm.add_interface(id, iface)),
            ("PUT", ["vsock"]) => self.configure(body, Vmm::set_vsock),
            ("PUT", ["entropy"]) => self.configure(body, |_, _: Entropy| Ok(())),
            ("PUT", ["actions"]) => self.act(body),
            ("PATCH", ["vm"]) => self.set_state(body),
            ("PUT", ["snapshot", "create"]) => self.create_snapshot(body),
            ("PUT", ["snapshot", "load"]) => return self.load_snapshot(body),
            ("PUT", ["uffd", "wp"]) if self.config.has(Extension::WriteProtect) => self.hand_over(body),
            (method, _) => Err(format!(
                "Invalid request method and/or path: {method} {}.",
                request.path.trim_matches('/')
            )),
        };
        handled.unwrap_or_else(Answer::refused)
    }

    fn machine(&self) -> MachineConfig {
        let resources = self.vm.as_ref().map_or(&self.resources, |vm| &vm.resources);
        resources.machine.clone()
    }

    fn instance(&self) -> Answer {
        let state = match &self.vm {
            None => "Not started",
            Some(vm) if vm.is_paused => "Paused",
            Some(_) => "Running",
        };
        Answer::json(&json!({
            "app_name": "Firecracker",
            "id": self.arguments.id,
            "state": state,
            "vmm_version": self.config.version,
        }))
    }

    /// Configures a VM, which is possible only until it starts.
    fn configure<T: DeserializeOwned>(
        &mut self,
        body: &[u8],
        set: impl FnOnce(&mut Vmm, T) -> Result<(), String>,
    ) -> Handled {
        let value = parse(body)?;
        if self.vm.is_some() {
            return Err(NOT_AFTER_START.into());
        }
        set(self, value)?;
        Ok(Answer::done())
    }

    fn set_machine(&mut self, machine: MachineConfig) -> Result<(), String> {
        if machine.vcpu_count == 0 || machine.vcpu_count > VCPUS_MAX {
            return Err(
                "The vCPU number is invalid! The vCPU number can only be 1 or an even number when SMT is enabled."
                    .into(),
            );
        }
        if machine.mem_size_mib == 0 || machine.mem_size_mib > MEM_MIB_MAX {
            return Err("The memory size (MiB) is invalid.".into());
        }
        self.resources.machine = machine;
        Ok(())
    }

    fn add_drive(&mut self, id: &str, drive: Drive) -> Result<(), String> {
        if drive.drive_id != id {
            return Err("The id from the path does not match the id from the body!".into());
        }
        let path = drive.path_on_host.as_deref().unwrap_or_default();
        std::fs::File::open(path)
            .map_err(|error| format!("Unable to create the block device: Virtio backend error: Error manipulating the backing file: {error} {path}"))?;
        self.resources.drives.retain(|other| other.drive_id != id);
        self.resources.drives.push(drive);
        Ok(())
    }

    fn add_interface(&mut self, id: &str, iface: NetworkInterface) -> Result<(), String> {
        if iface.iface_id != id {
            return Err("The id from the path does not match the id from the body!".into());
        }
        self.resources.interfaces.retain(|other| other.iface_id != id);
        self.resources.interfaces.push(iface);
        Ok(())
    }

    fn set_vsock(&mut self, vsock: Vsock) -> Result<(), String> {
        if vsock.guest_cid < FIRST_GUEST_CID {
            return Err(format!(
                "Invalid guest CID: {}. CIDs 0, 1 and 2 are reserved.",
                vsock.guest_cid
            ));
        }
        self.resources.vsock = Some(vsock);
        Ok(())
    }

    fn act(&mut self, body: &[u8]) -> Handled {
        match (parse::<Action>(body)?.action_type, &self.vm) {
            (ActionType::FlushMetrics, _) => Ok(Answer::done()),
            (ActionType::InstanceStart, Some(_)) => Err(NOT_AFTER_START.into()),
            (ActionType::InstanceStart, None) => {
                if self.config.fault == Some(Fault::ExitAtStart) {
                    std::process::exit(148);
                }
                let missing = "Cannot start microvm without kernel configuration.";
                let source = self.boot_source.as_ref().ok_or(missing)?;
                let mut vm = Vm::boot(self.resources.clone(), source, &self.config)?;
                filters::install(self.config.filters, Moment::Loaded);
                self.let_run(&mut vm);
                self.vm = Some(vm);
                Ok(Answer::done())
            }
            (ActionType::SendCtrlAltDel, None) => Err(NOT_BEFORE_START.into()),
            (ActionType::SendCtrlAltDel, Some(_)) => Ok(Answer::done()),
        }
    }

    fn set_state(&mut self, body: &[u8]) -> Handled {
        let wanted: crate::schema::Vm = parse(body)?;
        let mut vm = self.vm.take().ok_or(NOT_BEFORE_START)?;
        match wanted.state {
            VmState::Paused => vm.set_paused(true),
            VmState::Resumed => self.let_run(&mut vm),
        }
        self.vm = Some(vm);
        Ok(Answer::done())
    }

    fn let_run(&mut self, vm: &mut Vm) {
        // Once: each filter more is one more for the kernel to run.
        if !self.has_run {
            filters::install(self.config.filters, Moment::Run);
        }
        self.has_run = true;
        vm.set_paused(false);
    }

    fn create_snapshot(&mut self, body: &[u8]) -> Handled {
        if extensions::is_vmstate_only(&value(body)?, &self.config) {
            let asked = parse(body)?;
            let vm = self.vm.as_ref().ok_or(NOT_BEFORE_START)?;
            extensions::save_state(vm, &asked, &self.config)?;
            return Ok(Answer::done());
        }
        let asked: SnapshotCreate = parse(body)?;
        let vm = self.vm.as_ref().ok_or(NOT_BEFORE_START)?;
        snapshot::create(vm, &asked, &self.config)?;
        Ok(Answer::done())
    }

    /// Whatever fails once the request is understood is the end of the process.
    fn load_snapshot(&mut self, body: &[u8]) -> Answer {
        let asked = match self.understand_load(body) {
            Ok(asked) => asked,
            Err(why) => return Answer::refused(why),
        };
        if self.vm.is_some() {
            return Answer::refused(NOT_AFTER_START);
        }
        let resources = &self.resources;
        let configured = self.boot_source.is_some() || resources.vsock.is_some();
        if configured || !resources.drives.is_empty() || !resources.interfaces.is_empty() {
            return Answer::refused(
                "Loading a microVM snapshot not allowed after configuring boot-specific resources.",
            );
        }
        match snapshot::load(&asked, &self.config) {
            Ok(mut vm) => {
                filters::install(self.config.filters, Moment::Loaded);
                if asked.asked.resume_vm {
                    self.let_run(&mut vm);
                }
                self.vm = Some(vm);
                Answer::done()
            }
            Err(why) => Answer::fatal(why),
        }
    }

    /// Fields that came with later versions are unknown to earlier ones.
    fn understand_load(&self, body: &[u8]) -> Result<Load, String> {
        let given = value(body)?;
        let since = [
            ("network_overrides", (1, 12)),
            ("track_dirty_pages", (1, 13)),
            ("vsock_override", (1, 16)),
        ];
        for (field, (major, minor)) in since {
            if !given[field].is_null() && !self.config.is_at_least(major, minor) {
                return Err(malformed(&format!(
                    "unknown field `{field}`, expected one of `snapshot_path`, `mem_backend`, `resume_vm`"
                )));
            }
        }
        let (plain, shared) = extensions::take_shared(given, &self.config);
        let asked = parse(plain.to_string().as_bytes())?;
        Ok(Load { asked, shared })
    }

    fn hand_over(&mut self, body: &[u8]) -> Handled {
        // An empty request tells whether it is known.
        let vm = self.vm.as_ref().ok_or(NOT_BEFORE_START)?;
        extensions::hand_over(vm, &parse(body)?, &self.config)?;
        Ok(Answer::done())
    }
}

fn value(body: &[u8]) -> Result<Value, String> {
    parse(body)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| malformed(&error.to_string()))
}

fn malformed(why: &str) -> String {
    format!("An error occurred when deserializing the json body of a request: {why}.")
}
