//! Memory that VMs are about to map. Who asked for it holds it, so that nobody is left with it.

use super::memory;
use crate::error::Result;
use crate::sandbox::Sandbox;
use std::collections::HashMap;
use std::fs::File;
use std::sync::Mutex;

/// By the names of the VMs.
#[derive(Default)]
pub struct Lent {
    files: Mutex<HashMap<String, File>>,
}

impl Lent {
    /// Where a VM finds its memory until it is taken back.
    pub fn lend(&self, sandbox: &Sandbox) -> Result<String> {
        let file = memory::lend(&sandbox.stack)?;
        let path = memory::path_of(&file);
        let mut files = self.files.lock().expect("no panic while held");
        files.insert(sandbox.name().into(), file);
        Ok(path)
    }

    /// Who has mapped it keeps it.
    pub fn take_back(&self, name: &str) {
        self.files.lock().expect("no panic while held").remove(name);
    }
}
