//! The identity of a restored child: entropy, clock, hostname, machine-id.

use std::io;
use std::time::Duration;

use base64::Engine;
use serde::{Deserialize, Serialize};
use ts_rs::TS;

use crate::clock;
use crate::error::{ApiError, ErrorCode};
use crate::{root_files, sys};

const ENTROPY_BYTES_MIN: usize = 32;
pub const HOSTNAME_BYTES_MAX: usize = 64;

#[derive(Deserialize, TS)]
#[serde(deny_unknown_fields)]
#[ts(export_to = "agent-wire.ts", rename = "IdentityRequest")]
pub struct Request {
    /// 32 to 512 bytes in base64.
    entropy: String,
    /// A decimal number.
    wall_clock_unix_ns: String,
    hostname: String,
    machine_id: String,
}

/// A request whose every field has been checked.
pub struct Identity {
    pub entropy: Vec<u8>,
    wall_clock: Duration,
    hostname: String,
    machine_id: String,
}

#[derive(Clone, Debug, Default, Serialize, TS)]
#[ts(export_to = "agent-wire.ts", rename = "Identity")]
pub struct Current {
    /// How many identities were taken on. The same machine-id again is a retry, and does not count.
    pub generation: u64,
    pub hostname: Option<String>,
    pub machine_id: Option<String>,
}

impl Request {
    pub fn check(self) -> Result<Identity, ApiError> {
        let bad = |what: &str| ApiError::bad_request(ErrorCode::BadIdentity, what.to_owned());
        let entropy = base64::engine::general_purpose::STANDARD
            .decode(&self.entropy)
            .map_err(|_| bad("entropy is not base64"))?;
        if !(ENTROPY_BYTES_MIN..=sys::ENTROPY_BYTES_MAX).contains(&entropy.len()) {
            return Err(bad("entropy must be 32 to 512 bytes"));
        }
        let wall_clock = clock::since_epoch(&self.wall_clock_unix_ns)?;
        let label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        let name = &self.hostname;
        if name.is_empty() || name.len() > HOSTNAME_BYTES_MAX || !name.bytes().all(label) {
            return Err(bad("hostname must be 1 to 64 letters, digits, dots and dashes"));
        }
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if self.machine_id.len() != 32 || !self.machine_id.bytes().all(hex) {
            return Err(bad("machine_id must be 32 lower-case hexadecimal digits"));
        }
        Ok(Identity {
            entropy,
            wall_clock,
            hostname: self.hostname,
            machine_id: self.machine_id,
        })
    }
}

impl Current {
    /// Notes the identity as the current one.
    pub fn take_on(&mut self, identity: &Identity) {
        if self.machine_id.as_ref() != Some(&identity.machine_id) {
            self.generation += 1;
        }
        self.hostname = Some(identity.hostname.clone());
        self.machine_id = Some(identity.machine_id.clone());
    }
}

impl Identity {
    /// Gives the machine this identity. Entropy first: whatever runs from here on draws numbers of its own.
    pub fn apply(&self) -> Result<(), ApiError> {
        let step = |what: &str, result: io::Result<()>| {
            result.map_err(|error| ApiError::io(format_args!("identity: {what}"), &error))
        };
        step("add entropy", sys::add_entropy(&self.entropy))?;
        step("set the clock", sys::set_wall_clock(self.wall_clock))?;
        step("set the hostname", sys::set_hostname(&self.hostname))?;
        step("write hostname", write_line("/etc/hostname", &self.hostname))?;
        step("write machine-id", write_line("/etc/machine-id", &self.machine_id))?;
        let hosts = with_own_name(&root_files::read("/etc/hosts"), &self.hostname);
        step("write hosts", root_files::write("/etc/hosts", hosts))
    }
}

fn write_line(path: &str, line: &str) -> io::Result<()> {
    root_files::write(path, format!("{line}\n"))
}

/// The hosts file with its one 127.0.1.1 line naming this machine. The other lines keep their bytes, UTF-8 or not.
fn with_own_name(hosts: &[u8], hostname: &str) -> Vec<u8> {
    let is_own = |line: &[u8]| String::from_utf8_lossy(line).split_whitespace().next() == Some("127.0.1.1");
    let mut text = Vec::new();
    for line in hosts
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| !is_own(line))
    {
        text.extend_from_slice(line);
        if !line.ends_with(b"\n") {
            text.push(b'\n');
        }
    }
    text.extend_from_slice(format!("127.0.1.1\t{hostname}\n").as_bytes());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(change: impl FnOnce(&mut Request)) -> Request {
        let mut request = Request {
            entropy: base64::engine::general_purpose::STANDARD.encode([7; 32]),
            wall_clock_unix_ns: "1700000000000000001".into(),
            hostname: "box-1".into(),
            machine_id: "0123456789abcdef0123456789abcdef".into(),
        };
        change(&mut request);
        request
    }

    #[test]
    fn every_field_is_checked() {
        assert!(request(|_| {}).check().is_ok());
        assert!(request(|it| it.entropy = "AAAA".into()).check().is_err());
        assert!(request(|it| it.hostname = "a b".into()).check().is_err());
        assert!(request(|it| it.machine_id = "xyz".into()).check().is_err());
        assert!(request(|it| it.wall_clock_unix_ns = "-1".into()).check().is_err());
    }

    #[test]
    fn a_retry_is_not_a_new_generation() {
        let identity = request(|_| {}).check().expect("good");
        let mut current = Current::default();
        current.take_on(&identity);
        current.take_on(&identity);
        assert_eq!(current.generation, 1);
    }

    #[test]
    fn the_hosts_file_names_the_machine_once() {
        let hosts = with_own_name(b"127.0.0.1\tlocalhost\n127.0.1.1\told\n", "new");
        assert_eq!(hosts, b"127.0.0.1\tlocalhost\n127.0.1.1\tnew\n");
        assert_eq!(with_own_name(&hosts, "new"), hosts);
        assert_eq!(with_own_name(b"", "new"), b"127.0.1.1\tnew\n");
        assert_eq!(with_own_name(b"# caf\xe9", "new"), b"# caf\xe9\n127.0.1.1\tnew\n");
    }
}
