//! The audit of a branch's disk: compares each block, as it was inside the pause, with what the files of the snapshot hold.

use crate::error::{DiskError, Result};
use crate::stack::Stack;
use forkd_layers::{LayerErrorKind, host_memory};
use forkd_linux_sys::PAGE_SIZE;
use forkd_protocol::FaultCode;
use forkd_protocol::disk::{BLOCK_SIZE, DiskAudit};
use sha2::{Digest, Sha256};

const BLOCK: usize = BLOCK_SIZE as usize;

/// A block and the SHA-256 of its content.
type Noted = (u64, [u8; 32]);

/// The content of a disk as it was in the pause, a digest for each block.
#[derive(Debug)]
pub struct PausedDisk {
    /// Ascending by block. All other blocks were zeros.
    noted: Vec<Noted>,
}

impl PausedDisk {
    /// Reads all blocks of a disk, which must not change meanwhile. Fails if the host has no memory for their digests.
    pub fn take(stack: &Stack) -> Result<PausedDisk> {
        let mut blocks = 0;
        stack.map.extents(|extent| blocks += extent.blocks);
        let bytes = blocks as usize * size_of::<Noted>();
        host_memory::require(bytes.div_ceil(PAGE_SIZE) as u64, "the audit of the disk").map_err(|error| {
            let is_short = error.kind == LayerErrorKind::OutOfMemory;
            let code = if is_short {
                FaultCode::OutOfMemory
            } else {
                FaultCode::Io
            };
            DiskError::new(code, error.message)
        })?;
        let mut noted = Vec::with_capacity(blocks as usize);
        stack.visit(|first, bytes| {
            noted.extend((first..).zip(bytes.chunks(BLOCK).map(digest)));
            Ok(())
        })?;
        Ok(PausedDisk { noted })
    }

    /// Compares the disk with a snapshot. A block that differs fails the branch: its snapshot would match no instant.
    pub fn compare(&self, snapshot: &Stack) -> Result<DiskAudit> {
        let zeros = digest(&[0; BLOCK]);
        let mut noted = self.noted.iter().copied().peekable();
        let (mut checked, mut differing, mut first_differing) = (0, 0, None);
        let mut check = |block: u64, is_same: bool| {
            checked += 1;
            if !is_same {
                differing += 1;
                first_differing.get_or_insert(block);
            }
        };
        snapshot.visit(|first, bytes| {
            for (block, content) in (first..).zip(bytes.chunks(BLOCK)) {
                while let Some((missing, was)) = noted.next_if(|(other, _)| *other < block) {
                    check(missing, was == zeros);
                }
                let was = noted.next_if(|(other, _)| *other == block);
                check(block, was.map_or(zeros, |(_, was)| was) == digest(content));
            }
            Ok(())
        })?;
        noted.for_each(|(missing, was)| check(missing, was == zeros));
        let Some(first) = first_differing else {
            return Ok(DiskAudit {
                checked_blocks: checked,
                differing_blocks: 0,
            });
        };
        let message = format!(
            "the audit found {differing} of {checked} blocks of the disk that are not as they were in the pause, \
             the first one block {first}"
        );
        Err(DiskError::new(FaultCode::AuditFailed, message))
    }
}

fn digest(block: &[u8]) -> [u8; 32] {
    Sha256::digest(block).into()
}
