//! The data ranges and holes of a file.

use crate::uffd::Range;
use crate::{PAGE_SIZE, check};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Bytes per read when looking into holes.
const LOOK_BYTES: usize = 64 << 10;

/// The ranges of a file's first `len` bytes that are not holes, ascending. A file system without holes gives a single range.
///
/// A single look is not enough: a page that the kernel is moving, to compact memory or to make a huge page, passes for
/// a hole until its copy is up to date. So each hole is looked at again in a way that moving a page does not disturb.
pub fn data_ranges(file: &File, len: u64) -> io::Result<Vec<Range>> {
    data_ranges_by(file, len, seek)
}

type Seek = fn(&File, u64, i32) -> io::Result<Option<u64>>;

fn data_ranges_by(file: &File, len: u64, seek: Seek) -> io::Result<Vec<Range>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < len {
        let start = seek(file, at, libc::SEEK_DATA)?.map_or(len, |start| start.min(len));
        missed(file, Range { start: at, end: start }, &mut ranges)?;
        if start == len {
            break;
        }
        let end = seek(file, start, libc::SEEK_HOLE)?.map_or(len, |end| end.min(len));
        push(&mut ranges, Range { start, end });
        at = end;
    }
    Ok(ranges)
}

/// Adds the pages of `hole` that are data after all.
fn missed(file: &File, hole: Range, ranges: &mut Vec<Range>) -> io::Result<()> {
    if hole.is_empty() || is_without_pages(file, hole) {
        return Ok(());
    }
    // A read waits for a page that is being moved, and leaves a hole as it is.
    let mut buffer = vec![0; LOOK_BYTES];
    for step in hole.steps(LOOK_BYTES as u64) {
        let got = read_whole(file, &mut buffer[..step.len() as usize], step.start)?;
        let pages = buffer[..got].chunks(PAGE_SIZE).enumerate();
        for (index, _) in pages.filter(|(_, page)| page.iter().any(|byte| *byte != 0)) {
            let start = step.start + (index * PAGE_SIZE) as u64;
            let end = step.end.min(start + PAGE_SIZE as u64);
            push(ranges, Range { start, end });
        }
    }
    Ok(())
}

/// True if a range has no page in memory and none that was swapped out or evicted. `false` if the kernel does not say, before Linux
/// 6.5. A page keeps its place while it is moved, and this counts places, whatever the state of the content.
fn is_without_pages(file: &File, range: Range) -> bool {
    const SYS_CACHESTAT: i64 = 451;
    let wanted = [range.start, range.len()];
    // Pages in memory, dirty, being written, evicted, and evicted recently.
    let mut counts = [0u64; 5];
    // SAFETY: the arrays have the layouts of struct cachestat_range and struct cachestat, and outlive the call.
    let done = check(unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &wanted, &mut counts, 0) });
    done.is_ok() && counts[0] == 0 && counts[3] == 0
}

/// Reads until the buffer is full or the file ends.
fn read_whole(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], at + got as u64) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// Adds a range, or extends the last one if they touch.
fn push(ranges: &mut Vec<Range>, range: Range) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ if range.is_empty() => {}
        _ => ranges.push(range),
    }
}

/// Seeks the next data or hole. `None` if there is none.
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

    /// A look that mistakes page 1 and all pages from 4 on for holes, as if they were being moved.
    fn disturbed(file: &File, from: u64, whence: i32) -> io::Result<Option<u64>> {
        const SEEN: [Range; 2] = [
            Range { start: 0, end: 4096 },
            Range {
                start: 8192,
                end: 16384,
            },
        ];
        let inside = SEEN.iter().find(|range| (range.start..range.end).contains(&from));
        if whence == libc::SEEK_HOLE {
            return Ok(Some(inside.map_or(from, |range| range.end)));
        }
        let next = SEEN.iter().map(|range| range.start).find(|start| *start >= from);
        let _ = file;
        Ok(inside.map(|_| from).or(next))
    }

    #[test]
    fn a_page_that_passes_for_a_hole_while_it_is_moved_is_found_all_the_same() {
        let file = memfd::create(c"sparse", 64 * 4096).expect("memfd");
        file.write_all_at(&[1; 4 * 4096], 0).expect("write");
        file.write_all_at(&[1], 40 * 4096 + 17).expect("write");
        let ranges = data_ranges_by(&file, 64 * 4096, disturbed).expect("ranges");
        let whole = Range {
            start: 0,
            end: 4 * 4096,
        };
        let last = Range {
            start: 40 * 4096,
            end: 41 * 4096,
        };
        assert_eq!(ranges, [whole, last]);
    }

    #[test]
    fn a_file_is_listed_whole_while_its_pages_are_moved() {
        const PAGES: u64 = 4096;
        let file = memfd::create(c"sparse", 2 * PAGES * 4096).expect("memfd");
        for page in 0..PAGES {
            file.write_all_at(&[1], 2 * page * 4096).expect("write");
        }
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    // Only root may request compaction. Without it the listing is the same.
                    let _ = std::fs::write("/proc/sys/vm/compact_memory", "1");
                    std::thread::yield_now();
                }
            });
            for _ in 0..50 {
                let ranges = data_ranges(&file, 2 * PAGES * 4096).expect("ranges");
                assert_eq!(ranges.iter().map(|range| range.len()).sum::<u64>(), PAGES * 4096);
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn the_holes_of_an_empty_file_are_not_read() {
        let file = memfd::create(c"sparse", 1 << 40).expect("memfd");
        if is_without_pages(&file, Range { start: 0, end: 4096 }) {
            assert_eq!(data_ranges(&file, 1 << 40).expect("ranges"), []);
        }
    }
}
