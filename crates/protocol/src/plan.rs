//! The plan of the mappings for a shim, as it crosses the socket: a fixed header, with the layers' descriptors
//! attached, then the extents. A VMM that has waited for its VM also gets the VM's name and device state.
//!
//! ```text
//! bytes 0..8    magic "FKDPLAN3"
//! bytes 8..16   guest RAM in bytes
//! bytes 16..24  number of descriptors
//! bytes 24..32  number of extents
//! bytes 32..40  bytes of the name
//! bytes 40..48  bytes of the device state
//! bytes 48..56  number of refreshes
//! then          extents of 32 bytes each: descriptor, guest page, page in the descriptor's file, pages
//! then          refreshes of 24 bytes each: offset in guest memory, bytes, operation (0 mix, 1 count, 2 page)
//! then          the name, the device state
//! ```
//! All numbers are little-endian and 64 bits wide.

use crate::refresh::{REFRESHES_MAX, Refresh, RefreshOp};

const MAGIC: &[u8; 8] = b"FKDPLAN3";

/// Bytes of the header.
pub const HEADER_BYTES: usize = 56;
/// Bytes of an extent.
pub const EXTENT_BYTES: usize = 32;
/// Bytes of a refresh.
pub const REFRESH_BYTES: usize = 24;
/// Most layers in a stack, and most extents in a plan.
pub const FDS_MAX: u64 = 4096;
pub const EXTENTS_MAX: u64 = 1 << 20;
/// Longest name, in bytes.
pub const NAME_BYTES_MAX: u64 = 256;
/// Most bytes of a device state, for writer and reader. A typical one has some ten kilobytes.
pub const DEVICE_STATE_BYTES_MAX: u64 = 16 << 20;

/// Consecutive pages of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Index of the descriptor, in the order of sending.
    pub fd: u64,
    pub guest_page: u64,
    pub file_page: u64,
    pub pages: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    pub mem_bytes: u64,
    pub fds: u64,
    pub extents: u64,
    /// Zero for a VMM that was started for one VM, as is the next field.
    pub name_bytes: u64,
    pub device_state_bytes: u64,
    pub refreshes: u64,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(MAGIC);
        let numbers = [
            self.mem_bytes,
            self.fds,
            self.extents,
            self.name_bytes,
            self.device_state_bytes,
            self.refreshes,
        ];
        put(&mut out[8..], &numbers);
        out
    }

    /// Refuses a wrong magic and numbers beyond the limits.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, String> {
        if &bytes[..8] != MAGIC {
            return Err("not a memory plan".into());
        }
        let [mem_bytes, fds, extents, name_bytes, device_state_bytes, refreshes] = take(&bytes[8..]);
        if fds > FDS_MAX || extents > EXTENTS_MAX {
            return Err(format!(
                "a plan of {fds} descriptors and {extents} extents is beyond the limits"
            ));
        }
        if name_bytes > NAME_BYTES_MAX || device_state_bytes > DEVICE_STATE_BYTES_MAX {
            return Err(format!(
                "a name of {name_bytes} bytes and a device state of {device_state_bytes} are beyond the limits"
            ));
        }
        if refreshes > REFRESHES_MAX as u64 {
            return Err(format!("a plan of {refreshes} refreshes is beyond the limit"));
        }
        Ok(Header {
            mem_bytes,
            fds,
            extents,
            name_bytes,
            device_state_bytes,
            refreshes,
        })
    }
}

impl Extent {
    pub fn encode(&self, out: &mut Vec<u8>) {
        for number in [self.fd, self.guest_page, self.file_page, self.pages] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    pub fn decode(bytes: &[u8; EXTENT_BYTES]) -> Extent {
        let [fd, guest_page, file_page, pages] = take(bytes);
        Extent {
            fd,
            guest_page,
            file_page,
            pages,
        }
    }
}

impl Refresh {
    pub fn encode(&self, out: &mut Vec<u8>) {
        for number in [self.at, self.bytes, self.op as u64] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// Fails for an unknown operation.
    pub fn decode(bytes: &[u8; REFRESH_BYTES]) -> Result<Refresh, String> {
        let [at, bytes, op] = take(bytes);
        let op = match op {
            0 => RefreshOp::Mix,
            1 => RefreshOp::Count,
            2 => RefreshOp::Page,
            other => return Err(format!("there is no refresh of kind {other}")),
        };
        Ok(Refresh { at, bytes, op })
    }
}

fn put(out: &mut [u8], numbers: &[u64]) {
    for (slot, number) in out.chunks_exact_mut(8).zip(numbers) {
        slot.copy_from_slice(&number.to_le_bytes());
    }
}

fn take<const N: usize>(bytes: &[u8]) -> [u64; N] {
    std::array::from_fn(|i| u64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().expect("eight bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_extent_come_back_as_they_went() {
        let header = Header {
            mem_bytes: 1 << 40,
            fds: 7,
            extents: 9,
            name_bytes: 11,
            device_state_bytes: 13,
            refreshes: 5,
        };
        assert_eq!(Header::decode(&header.encode()), Ok(header));
        let extent = Extent {
            fd: 1,
            guest_page: 2,
            file_page: 3,
            pages: u64::MAX,
        };
        let mut bytes = Vec::new();
        extent.encode(&mut bytes);
        assert_eq!(Extent::decode(bytes[..].try_into().expect("32 bytes")), extent);
        for op in [RefreshOp::Mix, RefreshOp::Count, RefreshOp::Page] {
            let refresh = Refresh {
                at: 1 << 33,
                bytes: 24,
                op,
            };
            let mut bytes = Vec::new();
            refresh.encode(&mut bytes);
            let decoded = Refresh::decode(bytes[..].try_into().expect("24 bytes"));
            assert_eq!(decoded, Ok(refresh));
        }
        assert!(Refresh::decode(&[3; REFRESH_BYTES]).is_err());
    }

    #[test]
    fn a_header_beyond_the_limits_is_refused() {
        let beyond = [
            Header {
                fds: FDS_MAX + 1,
                ..Header::default()
            },
            Header {
                extents: EXTENTS_MAX + 1,
                ..Header::default()
            },
            Header {
                name_bytes: NAME_BYTES_MAX + 1,
                ..Header::default()
            },
            Header {
                device_state_bytes: DEVICE_STATE_BYTES_MAX + 1,
                ..Header::default()
            },
            Header {
                refreshes: REFRESHES_MAX as u64 + 1,
                ..Header::default()
            },
        ];
        for header in beyond {
            assert!(Header::decode(&header.encode()).is_err(), "{header:?}");
        }
        assert!(Header::decode(&Header::default().encode()).is_ok());
        assert!(Header::decode(&[0; HEADER_BYTES]).is_err(), "no magic");
    }
}
