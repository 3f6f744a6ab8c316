//! A VMM's memory: regions that lie one behind the other in the guest, and anywhere in the process. And how it is handed over.

use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::fds;
use forkd_linux_sys::memfd::{Mapping, map_private_over};
use forkd_linux_sys::uffd::{Modes, Range, Userfaultfd};
use serde_json::{Value, json};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// The memory of a VM.
pub struct Regions {
    mappings: Vec<Mapping>,
    page_bytes: usize,
}

impl Regions {
    /// Zeros.
    pub fn anonymous(sizes: &[usize]) -> io::Result<Regions> {
        Regions::of(sizes, PAGE_SIZE, Mapping::anonymous)
    }

    /// Zeros in huge pages.
    pub fn huge(sizes: &[usize]) -> io::Result<Regions> {
        Regions::of(sizes, HUGE_PAGE_BYTES, Mapping::anonymous_huge)
    }

    /// Private mappings of a file, which stays as it is.
    pub fn of_file(file: &File, sizes: &[usize]) -> io::Result<Regions> {
        let mut offset = 0;
        Regions::of(sizes, PAGE_SIZE, |bytes| {
            let region = Mapping::anonymous(bytes)?;
            // SAFETY: replaces the pages of a mapping that was just made and that nobody else knows.
            unsafe { map_private_over(range_of(&region).start, bytes as u64, file.as_fd(), offset) }?;
            offset += bytes as u64;
            Ok(region)
        })
    }

    /// Shared mappings of a file, which changes with them.
    pub fn shared(file: &File, sizes: &[usize]) -> io::Result<Regions> {
        let mut offset = 0;
        Regions::of(sizes, PAGE_SIZE, |bytes| {
            let region = Mapping::part(file, offset, bytes, true)?;
            offset += bytes as u64;
            Ok(region)
        })
    }

    fn of(sizes: &[usize], page_bytes: usize, map: impl FnMut(usize) -> io::Result<Mapping>) -> io::Result<Regions> {
        let mappings = sizes.iter().copied().map(map).collect::<io::Result<_>>()?;
        Ok(Regions { mappings, page_bytes })
    }

    /// Bytes in all of them.
    pub fn len(&self) -> usize {
        self.mappings.iter().map(Mapping::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The region that a byte of the guest's memory is in, and where it is there. Panics beyond the last one.
    pub fn at(&self, mut offset: usize) -> (&Mapping, usize) {
        for mapping in &self.mappings {
            if offset < mapping.len() {
                return (mapping, offset);
            }
            offset -= mapping.len();
        }
        panic!("{offset} bytes beyond the guest's memory");
    }

    /// Copies `bytes` to `offset`, whichever regions that is in.
    pub fn write(&self, mut offset: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (mapping, at) = self.at(offset);
            let (piece, rest) = bytes.split_at(bytes.len().min(mapping.len() - at));
            mapping.write(at, piece);
            offset += piece.len();
            bytes = rest;
        }
    }

    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// Where they are in this process.
    pub fn ranges(&self) -> impl Iterator<Item = Range> {
        self.mappings.iter().map(range_of)
    }

    /// A userfaultfd that says who waits for a page that is not there, as Firecracker makes it.
    pub fn register(&self) -> io::Result<Userfaultfd> {
        self.register_with(Userfaultfd::create_for_pages()?)
    }

    /// The same with one that was made in another way.
    pub fn register_with(&self, uffd: Userfaultfd) -> io::Result<Userfaultfd> {
        self.ranges().try_for_each(|range| register_missing(&uffd, range))?;
        Ok(uffd)
    }

    /// Lets them be write-protected with `uffd`. Nothing is protected yet.
    pub fn register_writes(&self, uffd: Userfaultfd) -> io::Result<Userfaultfd> {
        self.ranges().try_for_each(|range| uffd.register_write_protect(range))?;
        Ok(uffd)
    }

    /// The same as [`Regions::hand_over`], but for the last page.
    pub fn hand_over_part(&self, uffd: &Userfaultfd, socket: &Path) -> io::Result<()> {
        let mut list = self.list();
        let last = list.last_mut().expect("there is memory");
        last["size"] = json!(last["size"].as_u64().unwrap_or(0) - self.page_bytes as u64);
        let stream = UnixStream::connect(socket)?;
        fds::send_with_fds(&stream, Value::from(list).to_string().as_bytes(), &[uffd.as_fd()])
    }

    /// Hands them over to the page server at `socket`, in one message, as Firecracker sends it since 1.12. What is returned is
    /// the connection, which is to be kept.
    pub fn hand_over(&self, uffd: &Userfaultfd, socket: &Path) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(socket)?;
        fds::send_with_fds(
            &stream,
            Value::from(self.list()).to_string().as_bytes(),
            &[uffd.as_fd()],
        )?;
        Ok(stream)
    }

    fn list(&self) -> Vec<Value> {
        let mut offset = 0;
        let mut list = Vec::new();
        for mapping in &self.mappings {
            list.push(json!({
                "base_host_virt_addr": range_of(mapping).start,
                "size": mapping.len(),
                "offset": offset,
                "page_size": self.page_bytes,
                "page_size_kib": self.page_bytes,
            }));
            offset += mapping.len();
        }
        list
    }
}

/// All of `mapping`.
pub fn range_of(mapping: &Mapping) -> Range {
    let start = mapping.target(0, mapping.len()) as u64;
    Range {
        start,
        end: start + mapping.len() as u64,
    }
}

/// Registers for pages that are not there.
pub fn register_missing(uffd: &Userfaultfd, range: Range) -> io::Result<()> {
    let missing = true;
    uffd.register(
        range,
        Modes {
            missing,
            ..Modes::default()
        },
    )
}
