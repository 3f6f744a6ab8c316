//! Extensions of a build with live branches: memory that is mapped shared, device state on its own, and guest memory that
//! is handed over to be write-protected.

use crate::config::{Config, Extension, Fault};
use crate::schema::SnapshotLoad;
use crate::vm::Vm;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// The body of `PUT /snapshot/create` for device state alone. The memory's file is left alone, if one is named.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmstateOnly {
    #[serde(rename = "snapshot_type")]
    _snapshot_type: String,
    snapshot_path: String,
    #[serde(rename = "mem_file_path")]
    _mem_file_path: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandOver {
    /// Where somebody listens.
    socket: String,
}

/// Whether `body`, of `PUT /snapshot/create`, asks for device state alone.
pub fn is_vmstate_only(body: &Value, config: &Config) -> bool {
    config.has(Extension::VmstateOnly) && body["snapshot_type"] == "VmstateOnly"
}

pub fn save_state(vm: &Vm, asked: &VmstateOnly, config: &Config) -> Result<(), String> {
    vm.require_paused()?;
    match config.fault {
        Some(Fault::VmstateFails) => return Err("Create snapshot error: the stand-in was told to fail.".into()),
        Some(Fault::ExitAtVmstate) => std::process::exit(148),
        _ => {}
    }
    vm.reset_connections();
    let state = vm.state(config).write(Path::new(&asked.snapshot_path));
    state.map_err(|error| format!("Create snapshot error: Cannot write the microVM state: {error}"))?;
    Ok(())
}

pub fn hand_over(vm: &Vm, asked: &HandOver, config: &Config) -> Result<(), String> {
    let handed = vm.memory.hand_over(Path::new(&asked.socket), config);
    handed.map_err(|error| format!("Cannot hand over guest memory: {error}"))
}

/// The load that `body` asks for, and whether memory is to be mapped shared. Without the extension the field is unknown.
pub fn take_shared(mut body: Value, config: &Config) -> (Value, bool) {
    if !config.has(Extension::SharedMemory) {
        return (body, false);
    }
    let backend = body["mem_backend"].as_object_mut();
    let shared = backend.and_then(|backend| match backend.get("shared") {
        Some(Value::Bool(shared)) => Some(*shared).inspect(|_| drop(backend.remove("shared"))),
        _ => None,
    });
    (body, shared.unwrap_or(false))
}

/// A load, with what came with later versions.
pub struct Load {
    pub asked: SnapshotLoad,
    pub shared: bool,
}
