//! Kernel modules, loaded in the order in which the initramfs lists them.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::{BootError, step};
use crate::sys;

/// Loads the modules named by `list`, one path a line. No list: nothing to load.
pub fn load(list: &Path) -> Result<(), BootError> {
    let text = match fs::read_to_string(list) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => step(format_args!("read {}", list.display()), text)?,
    };
    let paths = text.lines().map(str::trim).filter(|line| !line.is_empty());
    for path in paths {
        step(format_args!("load module {path}"), load_one(path))?;
    }
    Ok(())
}

fn load_one(path: &str) -> io::Result<()> {
    let file = File::open(path)?;
    let compressed = [".xz", ".zst", ".gz"].iter().any(|end| path.ends_with(end));
    match sys::finit_module(&file, compressed) {
        // Loaded already, or built in.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}
