//! The file that holds what is not memory: a magic number, a checksum, and what the VM was.

use crate::memory::WriterState;
use crate::schema::{Drive, MachineConfig, NetworkInterface, Vsock};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

const MAGIC: &[u8; 8] = b"FCSTAND1";
const HEAD_BYTES: usize = 12;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmState {
    pub vmm_version: String,
    pub machine: MachineConfig,
    pub drives: Vec<Drive>,
    pub interfaces: Vec<NetworkInterface>,
    pub vsock: Option<Vsock>,
    pub writers: Vec<WriterState>,
    /// Bytes that the vsock device has given to the guest; the guest's memory says so too.
    #[serde(default)]
    pub received: u64,
}

impl VmState {
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let body = serde_json::to_vec(self).expect("plain data");
        let checksum = crc32fast::hash(&body).to_le_bytes();
        fs::write(path, [&MAGIC[..], &checksum, &body].concat())
    }

    pub fn read(path: &Path) -> Result<VmState, String> {
        let bytes = fs::read(path).map_err(|error| format!("Failed to open snapshot file: {error}"))?;
        if bytes.len() < HEAD_BYTES || bytes[..8] != MAGIC[..] {
            return Err("Failed to load snapshot state from file: Magic value does not match arch".into());
        }
        let (head, body) = bytes.split_at(HEAD_BYTES);
        if head[8..] != crc32fast::hash(body).to_le_bytes() {
            return Err("Failed to load snapshot state from file: CRC64 validation failed".into());
        }
        serde_json::from_slice(body).map_err(|error| format!("Failed to load snapshot state from file: {error}"))
    }
}
