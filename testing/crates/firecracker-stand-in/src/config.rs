//! Behaviour of this stand-in, read from `stand-in.json` beside the program.

use serde::Deserialize;
use std::fs;
use std::path::PathBuf;

/// A way to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Ends with a message, before it listens.
    ExitEarly,
    /// Stays, and never listens.
    NeverListen,
    /// Takes connections, and answers nothing.
    NeverAnswer,
    /// Ends in the middle of starting the VM.
    ExitAtStart,
    /// Writes half of the memory of a snapshot, and then has no room.
    DiskFull,
    /// Refuses to save device state by itself.
    VmstateFails,
    /// Ends when it is to save device state by itself.
    ExitAtVmstate,
    /// Connects to the process that wants its memory, and sends nothing.
    NoHandover,
    /// Hands over memory of which a part is missing.
    OddHandover,
    /// Hands over a userfaultfd that also reports freed memory.
    TalkativeHandover,
}

/// Behaviour of Firecracker's system call filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filters {
    /// No filters, as with `--no-seccomp`.
    None,
    /// Allow a userfaultfd at any time.
    Allowing,
    /// Kill a process that creates a userfaultfd after a VM has been loaded or booted, as published builds do.
    FromLoad,
    /// Kill a process that creates a userfaultfd after a VM has run.
    FromRun,
}

/// The features that are asked for of the userfaultfd which is handed over to protect memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteFeatures {
    All,
    /// The one for write-protection, which is all that Rust's `userfaultfd` crate can name.
    Alone,
}

/// Something that published builds have not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extension {
    /// `mem_backend.shared`
    SharedMemory,
    /// The snapshot type `VmstateOnly`.
    VmstateOnly,
    /// `PUT /uffd/wp`
    WriteProtect,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Extensions {
    All(bool),
    These(Vec<Extension>),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub version: String,
    /// All of them or none, or a list.
    pub extensions: Extensions,
    pub filters: Filters,
    pub write_features: WriteFeatures,
    pub fault: Option<Fault>,
    /// Where memory makes room for devices: what is more is a region of its own. Tests have less memory than Firecracker's 3 GiB.
    pub gap_at_mib: u64,
    /// The guest agent that the vsock device leads to.
    pub agent: Option<String>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            version: "1.13.1".into(),
            extensions: Extensions::All(false),
            filters: Filters::Allowing,
            write_features: WriteFeatures::All,
            fault: None,
            gap_at_mib: 3072,
            agent: None,
        }
    }
}

impl Config {
    pub fn read() -> Result<Config, String> {
        // A root of its own has no /proc that would tell, and the jailer names the program in full.
        let named = || std::env::args_os().next().map(PathBuf::from);
        let program = std::env::current_exe()
            .ok()
            .or_else(named)
            .ok_or("nobody named the program")?;
        match fs::read(program.with_file_name("stand-in.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| format!("stand-in.json: {error}")),
            Err(_) => Ok(Config::default()),
        }
    }

    pub fn has(&self, extension: Extension) -> bool {
        match &self.extensions {
            Extensions::All(all) => *all,
            Extensions::These(these) => these.contains(&extension),
        }
    }

    /// The sizes of the regions that so much memory consists of, in bytes.
    pub fn regions(&self, mem_mib: u64) -> Vec<usize> {
        let below = mem_mib.min(self.gap_at_mib);
        let sizes = [below, mem_mib - below].map(|mib| (mib << 20) as usize);
        sizes.into_iter().filter(|bytes| *bytes > 0).collect()
    }

    /// Whether it is to be that version or a later one.
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        let mut numbers = self.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
    }
}
