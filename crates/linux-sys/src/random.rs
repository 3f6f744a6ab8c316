//! Random bytes from this host's kernel.

use std::io;

/// Fills `buffer`. The kernel fills up to 256 bytes in one piece.
pub fn fill(mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        // SAFETY: the pointer and the length describe `buffer`.
        let got = unsafe { libc::getrandom(buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        match usize::try_from(got) {
            Ok(count) => buffer = &mut buffer[count..],
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_two_draws_are_alike() {
        let mut draws = [[0u8; 64]; 2];
        for draw in &mut draws {
            super::fill(draw).expect("random bytes");
        }
        assert_ne!(draws[0], draws[1]);
    }
}
