//! Where a file has data, and where it has holes.

use crate::uffd::Range;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// The ranges of a file's first `len` bytes that are not holes, ascending. A file system without holes gives one.
pub fn data_ranges(file: &File, len: u64) -> io::Result<Vec<Range>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < len {
        let Some(start) = seek(file, at, libc::SEEK_DATA)? else {
            break;
        };
        let Some(end) = seek(file, start, libc::SEEK_HOLE)? else {
            break;
        };
        ranges.push(Range {
            start,
            end: end.min(len),
        });
        at = end;
    }
    ranges.retain(|range| range.start < range.end);
    Ok(ranges)
}

/// `None` when there is nothing more of that kind.
fn seek(file: &File, from: u64, whence: i32) -> io::Result<Option<u64>> {
    // SAFETY: lseek on an owned descriptor; the call takes no pointer.
    let found = unsafe { libc::lseek(file.as_raw_fd(), from as i64, whence) };
    if found >= 0 {
        return Ok(Some(found as u64));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memfd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn data_is_where_it_was_written() {
        let file = memfd::create(c"sparse", 8 * 4096).expect("memfd");
        assert_eq!(data_ranges(&file, 8 * 4096).expect("ranges"), []);
        file.write_all_at(&[1; 4096], 4096).expect("write");
        file.write_all_at(&[1; 8192], 6 * 4096).expect("write");
        let (one, two) = (
            Range { start: 4096, end: 8192 },
            Range {
                start: 6 * 4096,
                end: 8 * 4096,
            },
        );
        assert_eq!(data_ranges(&file, 8 * 4096).expect("ranges"), [one, two]);
        let cut = Range { end: 7 * 4096, ..two };
        assert_eq!(data_ranges(&file, 7 * 4096).expect("ranges"), [one, cut]);
    }
}
