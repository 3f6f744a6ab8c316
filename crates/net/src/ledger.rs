//! State that must outlive the process that serves a wire: the names that have an address in the guest, and its connections.
//!
//! The ledger is a file in memory of which the keeper holds a descriptor. The next process finds in it what the last one wrote,
//! even if that was killed. Only the process that serves the wire writes to it.
//!
//! ```text
//! 0        names: NAMES slots of 256 bytes: offset of the address (4 bytes, 0: empty), length (1), name
//! 524,288  connections: CONNECTIONS slots of 16 bytes: guest port (2), address (4), port (2), next sequence (4),
//!          state (4; 0: empty, 1: open, else the second in which it was closed)
//! 540,672  how many names have been given an offset (4)
//! ```

use crate::policy::is_name;
use forkd_linux_sys::memfd::{self, Mapping};
use forkd_protocol::net::{Connection, Inherited, SyntheticName};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Names of a sandbox that have an address. A further one takes the place of the oldest.
pub const NAMES: usize = 2_048;
/// Addresses that stand for names: all of 198.18.0.0/15 but the first.
const OFFSETS: u32 = 1 << 17;
const NAME_BYTES: usize = 256;

/// Connections that are listed: the open ones and those that were closed of late.
pub const CONNECTIONS: usize = 1_024;
const CONNECTION_BYTES: usize = 16;
const CONNECTIONS_AT: usize = NAMES * NAME_BYTES;
const OPEN: u32 = 1;
/// Time for which a closed connection is listed: longer than any pause.
const CLOSED_SECONDS: u32 = 30;

/// How many names have been given an offset. It tells the slots that are in use: a page that is read takes memory.
const GIVEN_AT: usize = CONNECTIONS_AT + CONNECTIONS * CONNECTION_BYTES;
const BYTES: usize = GIVEN_AT + 4;

/// Names that a fork inherits, in bytes of JSON. Snapshots keep them.
const INHERITED_BYTES_MAX: usize = 160 << 10;
/// Bytes that JSON adds to a name.
const JSON_BYTES: usize = 32;

pub struct Ledger {
    mapping: Mapping,
    by_name: HashMap<String, u32>,
    given: u32,
    /// Slots without an open connection, the one that was closed first at the front.
    vacant: VecDeque<usize>,
}

/// Creates the file of a ledger.
pub fn create() -> io::Result<File> {
    memfd::create(c"forkd-net-ledger", BYTES as u64)
}

impl Ledger {
    /// Opens a ledger, and returns the connections that the process before this one has left open.
    pub fn open(file: &File) -> io::Result<(Ledger, Vec<Connection>)> {
        let mut ledger = Ledger {
            mapping: Mapping::read_write(file, BYTES)?,
            by_name: HashMap::new(),
            given: 0,
            vacant: (0..CONNECTIONS).collect(),
        };
        let given = ledger.mapping.bytes(GIVEN_AT, 4);
        ledger.given = u32::from_le_bytes(given.try_into().expect("four bytes"));
        let names = ledger.names().into_iter().map(|it| (it.name, it.offset));
        ledger.by_name = names.collect();
        let left = ledger.connections();
        ledger
            .mapping
            .write(CONNECTIONS_AT, &[0; CONNECTIONS * CONNECTION_BYTES]);
        Ok((ledger, left))
    }

    /// Takes over the names of a source. Names that are no names, and offsets out of range, are left out.
    pub fn inherit(&mut self, names: Vec<SyntheticName>) {
        for SyntheticName { offset, name } in names.into_iter().take(NAMES) {
            if (1..OFFSETS).contains(&offset) && is_name(&name) && !self.by_name.contains_key(&name) {
                // A smaller offset than the one before it belongs to the next turn of the range.
                let turn = self.given.saturating_sub(1) / (OFFSETS - 1) + u32::from(offset <= self.last_offset());
                self.write(turn * (OFFSETS - 1) + offset, &name);
            }
        }
    }

    /// The offset that was given last; 0 if none was.
    fn last_offset(&self) -> u32 {
        offset_of(self.given).unwrap_or(0)
    }

    /// The name that an offset in the synthetic range means here.
    pub fn name(&self, offset: u32) -> Option<String> {
        let held = self.read(offset as usize % NAMES)?;
        (held.offset == offset).then_some(held.name)
    }

    /// The offset of a name, which gets one if it has none. `name` must be a valid name.
    pub fn offset(&mut self, name: &str) -> u32 {
        if let Some(offset) = self.by_name.get(name) {
            return *offset;
        }
        // An offset is used again only after all others, so that an address in a cache means its name or nothing.
        self.write(self.given.checked_add(1).unwrap_or(OFFSETS), name)
    }

    /// Gives a name the offset of this number. Returns the offset.
    fn write(&mut self, given: u32, name: &str) -> u32 {
        let offset = offset_of(given).expect("numbers begin at 1");
        let slot = offset as usize % NAMES;
        if let Some(replaced) = self.read(slot) {
            self.by_name.remove(&replaced.name);
        }
        // A process that is killed in between leaves an empty slot.
        self.mapping.write(slot * NAME_BYTES, &0u32.to_le_bytes());
        self.mapping.write(slot * NAME_BYTES + 4, &[name.len() as u8]);
        self.mapping.write(slot * NAME_BYTES + 5, name.as_bytes());
        self.mapping.write(slot * NAME_BYTES, &offset.to_le_bytes());
        self.mapping.write(GIVEN_AT, &given.to_le_bytes());
        self.given = given;
        self.by_name.insert(name.to_owned(), offset);
        offset
    }

    fn read(&self, slot: usize) -> Option<SyntheticName> {
        let bytes = self.mapping.bytes(slot * NAME_BYTES, NAME_BYTES);
        let offset = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
        let name = std::str::from_utf8(bytes.get(5..5 + usize::from(bytes[4]))?).ok()?;
        let is_sound = (1..OFFSETS).contains(&offset) && offset as usize % NAMES == slot && is_name(name);
        is_sound.then(|| SyntheticName {
            offset,
            name: name.to_owned(),
        })
    }

    /// All names, the oldest first.
    fn names(&self) -> Vec<SyntheticName> {
        let used = NAMES.min(self.given as usize + 1);
        let mut names: Vec<_> = (0..used).filter_map(|slot| self.read(slot)).collect();
        // Offsets begin again after the last one of the range.
        names.sort_by_key(|name| name.offset.wrapping_sub(self.last_offset() + 1) % OFFSETS);
        names
    }

    /// Lists a connection as open. Returns its slot; `None` if all slots hold open connections.
    pub fn opened(&mut self, connection: &Connection) -> Option<usize> {
        let slot = self.vacant.pop_front()?;
        let mut bytes = [0; CONNECTION_BYTES];
        bytes[..2].copy_from_slice(&connection.guest_port.to_le_bytes());
        bytes[2..6].copy_from_slice(&connection.address.octets());
        bytes[6..8].copy_from_slice(&connection.port.to_le_bytes());
        bytes[8..12].copy_from_slice(&connection.next_sequence.to_le_bytes());
        bytes[12..].copy_from_slice(&OPEN.to_le_bytes());
        self.mapping.write(place(slot), &bytes);
        Some(slot)
    }

    /// Notes the sequence number after the last byte that was sent to the guest.
    pub fn sent(&self, slot: usize, next_sequence: u32) {
        self.mapping.write(place(slot) + 8, &next_sequence.to_le_bytes());
    }

    /// Lists a connection as closed from now on.
    pub fn closed(&mut self, slot: usize) {
        self.mapping.write(place(slot) + 12, &now().to_le_bytes());
        self.vacant.push_back(slot);
    }

    /// The inheritance of a fork that is made of the sandbox's present or recent past. Of too many names the oldest are left out.
    pub fn inherited(&self) -> Inherited {
        let mut names = self.names();
        let mut bytes = 0;
        let fit = names.iter().rev().take_while(|name| {
            bytes += name.name.len() + JSON_BYTES;
            bytes <= INHERITED_BYTES_MAX
        });
        let fit = fit.count();
        names.drain(..names.len() - fit);
        Inherited {
            names,
            connections: self.connections(),
        }
    }

    fn connections(&self) -> Vec<Connection> {
        let since = now().saturating_sub(CLOSED_SECONDS);
        let slots = (0..CONNECTIONS).map(|slot| self.mapping.bytes(place(slot), CONNECTION_BYTES));
        let listed = slots.filter(|bytes| {
            let state = u32::from_le_bytes(bytes[12..].try_into().expect("four bytes"));
            state == OPEN || state >= since
        });
        let read = |bytes: &[u8]| Connection {
            guest_port: u16::from_le_bytes([bytes[0], bytes[1]]),
            address: Ipv4Addr::new(bytes[2], bytes[3], bytes[4], bytes[5]),
            port: u16::from_le_bytes([bytes[6], bytes[7]]),
            next_sequence: u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
        };
        listed.map(read).collect()
    }
}

/// The offset of the name with this number, which begins at 1.
fn offset_of(given: u32) -> Option<u32> {
    Some(given.checked_sub(1)? % (OFFSETS - 1) + 1)
}

fn place(slot: usize) -> usize {
    CONNECTIONS_AT + slot * CONNECTION_BYTES
}

/// Seconds since 1970, which fit 32 bits until 2106.
fn now() -> u32 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    elapsed.as_secs() as u32
}

#[cfg(test)]
mod tests;
