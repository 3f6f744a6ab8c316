//! Reading another process' memory.

use crate::check;
use std::io;

/// One piece of memory to read: `len` bytes from `remote` in the other process to `local` in this one.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    pub local: *mut u8,
    pub remote: u64,
    pub len: usize,
}

/// The kernel's limit on pieces a call.
const PIECES_MAX: usize = 1024;

/// Reads all `pieces` from process `pid`. Does not wait for write-protected pages: reading them needs no fault.
///
/// # Safety
/// Each `local` must have room for its `len` bytes, and nobody else may use them meanwhile.
pub unsafe fn read_memory(pid: i32, pieces: &[Piece]) -> io::Result<()> {
    for batch in pieces.chunks(PIECES_MAX) {
        // SAFETY: passed on from the caller.
        unsafe { read_batch(pid, batch) }?;
    }
    Ok(())
}

/// Reads as many bytes as `buffer` has from `remote` on in process `pid`.
pub fn read_into(pid: i32, remote: u64, buffer: &mut [u8]) -> io::Result<()> {
    let piece = Piece {
        local: buffer.as_mut_ptr(),
        remote,
        len: buffer.len(),
    };
    // SAFETY: the buffer has room for its own length, and is borrowed for this call alone.
    unsafe { read_memory(pid, &[piece]) }
}

/// How many page faults the calling thread has had.
pub fn thread_faults() -> io::Result<u64> {
    // SAFETY: all zeros is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: writes one rusage.
    check(unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) }.into())?;
    Ok((usage.ru_minflt + usage.ru_majflt) as u64)
}

/// # Safety
/// As [`read_memory`].
unsafe fn read_batch(pid: i32, batch: &[Piece]) -> io::Result<()> {
    let mut rest: Vec<Piece> = batch.to_vec();
    while !rest.is_empty() {
        let local: Vec<libc::iovec> = rest
            .iter()
            .map(|p| libc::iovec {
                iov_base: p.local.cast(),
                iov_len: p.len,
            })
            .collect();
        let remote: Vec<libc::iovec> = rest
            .iter()
            .map(|p| libc::iovec {
                iov_base: p.remote as *mut libc::c_void,
                iov_len: p.len,
            })
            .collect();
        // SAFETY: both vectors describe memory as the caller vouches; the kernel checks the remote side.
        let got = check(unsafe {
            libc::process_vm_readv(
                pid,
                local.as_ptr(),
                local.len() as u64,
                remote.as_ptr(),
                remote.len() as u64,
                0,
            )
        } as i64)?;
        if got == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the process' memory ended early",
            ));
        }
        skip(&mut rest, got as usize);
    }
    Ok(())
}

/// Drops the first `bytes` from the pieces: a call may stop early.
fn skip(pieces: &mut Vec<Piece>, mut bytes: usize) {
    let whole = pieces
        .iter()
        .take_while(|piece| {
            let fits = piece.len <= bytes;
            if fits {
                bytes -= piece.len;
            }
            fits
        })
        .count();
    pieces.drain(..whole);
    if let Some(first) = pieces.first_mut().filter(|_| bytes > 0) {
        first.local = first.local.wrapping_add(bytes);
        first.remote += bytes as u64;
        first.len -= bytes;
    }
}
