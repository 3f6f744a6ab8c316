//! The memory mappings of a process.

use crate::uffd::Range;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

/// The identity of a file, however it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    device: (u64, u64),
    inode: u64,
}

impl FileId {
    pub fn of(file: &File) -> io::Result<FileId> {
        let metadata = file.metadata()?;
        let device = metadata.dev();
        Ok(FileId {
            device: (libc::major(device).into(), libc::minor(device).into()),
            inode: metadata.ino(),
        })
    }

    /// True if both have the same inode number. Some file systems show a file under another device where it is mapped.
    pub fn has_inode_of(self, other: FileId) -> bool {
        self.inode == other.inode
    }

    /// True if there is a file at all. The kernel has files for memory in huge pages, and for shared memory.
    pub fn is_file(self) -> bool {
        self.inode != 0
    }
}

/// A mapping of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    pub range: Range,
    /// True if writes stay private to the process.
    pub private: bool,
    pub file: FileId,
    /// Offset of the mapping in the file, in bytes.
    pub offset: u64,
}

/// The mappings of process `pid` that touch `range`, ascending.
pub fn mappings(pid: i32, range: Range) -> io::Result<Vec<Mapped>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let all = text.lines().filter_map(parse);
    Ok(all
        .filter(|mapped| mapped.range.start < range.end && range.start < mapped.range.end)
        .collect())
}

/// Parses `start-end permissions offset major:minor inode path`, all but the inode in hexadecimal.
fn parse(line: &str) -> Option<Mapped> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let private = words.next()?.ends_with('p');
    let offset = hex(words.next()?)?;
    let (major, minor) = words.next()?.split_once(':')?;
    Some(Mapped {
        range: Range {
            start: hex(start)?,
            end: hex(end)?,
        },
        private,
        file: FileId {
            device: (hex(major)?, hex(minor)?),
            inode: words.next()?.parse().ok()?,
        },
        offset,
    })
}
