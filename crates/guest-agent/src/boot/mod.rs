//! Boots the guest: from the kernel's first process to a machine that can run commands.
//!
//! 1. Mount the file systems of the kernel.
//! 2. Load modules.
//! 3. Mount the root file system, under an overlay in memory or on a disk.
//! 4. Write small files, and bring up the network.
//!
//! The error that ends a boot names the step.

mod modules;
mod mounts;
mod network;
mod root;

use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::path::Path;

use crate::{identity, root_files, sys};

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
    step("raise the limit of open files", sys::raise_file_limit(FILES_MAX))?;
    small_files()?;
    network::set_up()
}

/// Files that programs expect in /etc, if the image has none of them.
fn small_files() -> Result<(), BootError> {
    step("make /etc", root_files::make_directory("/etc"))?;
    let absent = [
        ("/etc/hostname", "forkd\n"),
        ("/etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n"),
        ("/etc/resolv.conf", ""),
    ];
    for (path, text) in absent {
        // A link that dangles is there, and is the image's business.
        if fs::symlink_metadata(path).is_err() {
            step(format_args!("write {path}"), root_files::write(path, text))?;
        }
    }
    let found = root_files::read("/etc/hostname");
    let hostname = str::from_utf8(found.trim_ascii()).unwrap_or_default();
    let is_usable = (1..=identity::HOSTNAME_BYTES_MAX).contains(&hostname.len());
    step(
        "set the hostname",
        sys::set_hostname(if is_usable { hostname } else { "forkd" }),
    )
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
