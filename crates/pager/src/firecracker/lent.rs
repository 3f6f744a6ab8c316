//! Memory files that VMs are about to map. Each belongs to the connection that requested it, and ends with it.

use super::memory;
use crate::error::Result;
use crate::refresh;
use forkd_layers::Stack;
use forkd_protocol::Announce;
use std::collections::HashMap;
use std::fs::File;
use std::sync::Mutex;

/// The files, by the names of their VMs.
#[derive(Default)]
pub struct Lent {
    files: Mutex<HashMap<String, File>>,
}

impl Lent {
    /// Creates a file with the content of `stack` for the announced VM. Returns its path, which is valid until `take_back`.
    pub fn lend(&self, announced: &Announce, stack: &Stack) -> Result<String> {
        let file = memory::lend(stack)?;
        refresh::apply_to_file(&announced.refresh, &file)?;
        let path = memory::path_of(&file);
        let mut files = self.files.lock().expect("no panic while held");
        files.insert(announced.sandbox.clone(), file);
        Ok(path)
    }

    /// Closes the file. A VMM that has mapped it keeps it.
    pub fn take_back(&self, name: &str) {
        self.files.lock().expect("no panic while held").remove(name);
    }
}
