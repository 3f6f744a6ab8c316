//! From the kernel's first process to a machine that commands can run on.
//!
//! 1. mount what the kernel offers; 2. load modules; 3. put the root file system in place, under a layer of memory;
//! 4. give the machine its small files and its loopback. Each step is named in the error that ends the boot.

mod modules;
mod mounts;
mod root;

use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::path::Path;

use crate::sys;

const FILES_MAX: u64 = 65_536;

#[derive(Debug, thiserror::Error)]
#[error("boot failed: {step}: {cause}")]
pub struct BootError {
    step: String,
    cause: std::io::Error,
}

/// Names the step that an error came from.
fn step<T>(name: impl Display, result: std::io::Result<T>) -> Result<T, BootError> {
    result.map_err(|cause| BootError {
        step: name.to_string(),
        cause,
    })
}

pub fn run() -> Result<(), BootError> {
    mounts::kernel_file_systems()?;
    modules::load(Path::new("/forkd/modules"))?;
    let command_line = step("read /proc/cmdline", fs::read_to_string("/proc/cmdline"))?;
    if let Some(root) = root::Root::asked_for(&command_line) {
        root.switch()?;
    }
    mounts::runtime_file_systems()?;
    step("bring lo up", sys::loopback_up())?;
    step("raise the limit of open files", sys::raise_file_limit(FILES_MAX))?;
    small_files()
}

/// What a program expects in /etc, where the image has none of it.
fn small_files() -> Result<(), BootError> {
    step("make /etc", fs::create_dir_all("/etc"))?;
    let absent = [
        ("/etc/hostname", "forkd\n"),
        ("/etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n"),
        ("/etc/resolv.conf", ""),
    ];
    for (path, text) in absent {
        // A link that dangles is there, and is the image's business.
        if fs::symlink_metadata(path).is_err() {
            step(format_args!("write {path}"), fs::write(path, text))?;
        }
    }
    let hostname = fs::read_to_string("/etc/hostname").unwrap_or_default();
    let hostname = hostname.trim();
    let hostname = if hostname.is_empty() { "forkd" } else { hostname };
    step("set the hostname", sys::set_hostname(hostname))
}

/// Says a line on the console, or on stderr where there is none.
pub fn say(line: &str) {
    let console = fs::OpenOptions::new().write(true).open("/dev/console");
    let said = match console {
        Ok(mut console) if std::process::id() == 1 => writeln!(console, "{line}"),
        _ => writeln!(std::io::stderr(), "{line}"),
    };
    // There is nobody left to tell.
    let _ = said;
}
