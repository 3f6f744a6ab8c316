//! Tests the kernel's abilities on a page of this process.

use super::{Modes, Range, Userfaultfd};
use crate::PAGE_SIZE;
use crate::memfd::{self, Mapping};
use std::io;
use std::os::fd::AsFd;

/// Tests whether this process can create a userfaultfd and write-protect a private mapping of a memfd with it. The
/// error says which step failed.
pub fn probe() -> io::Result<()> {
    let uffd = Userfaultfd::create().map_err(step("creating a userfaultfd"))?;
    let (_area, range) = page_of_memfd()?;
    uffd.register_write_protect(range)
        .map_err(step("registering write-protection of shared memory"))?;
    uffd.protect(range).map_err(step("write-protecting shared memory"))?;
    uffd.unprotect(range)
}

/// Tests whether this process can fill a missing page, as the page server does for VMs.
pub fn probe_missing() -> io::Result<()> {
    let uffd = Userfaultfd::create_for_pages().map_err(step("creating a userfaultfd"))?;
    let area = Mapping::anonymous(PAGE_SIZE)?;
    let range = page_at(&area);
    let missing = true;
    let modes = Modes {
        missing,
        ..Modes::default()
    };
    uffd.register(range, modes).map_err(step("registering missing pages"))?;
    let filled = uffd
        .copy(range.start, &[1; PAGE_SIZE])
        .map_err(step("filling a missing page"))?;
    match filled.stop {
        None => Ok(()),
        Some(stop) => Err(io::Error::other(format!("filling a missing page: {stop:?}"))),
    }
}

/// Tests whether a page of a memfd is mapped without a copy, and the same userfaultfd write-protects its memory. Forks
/// then share the pages that they have not written.
pub fn probe_sharing() -> io::Result<()> {
    let uffd = Userfaultfd::create().map_err(step("creating a userfaultfd"))?;
    let (_area, range) = page_of_memfd()?;
    let modes = Modes {
        missing: true,
        minor: true,
        write_protect: true,
    };
    uffd.register(range, modes)
        .map_err(step("registering minor faults of shared memory"))?;
    let filled = uffd
        .map_present(range)
        .map_err(step("mapping a page of shared memory"))?;
    if let Some(stop) = filled.stop {
        return Err(io::Error::other(format!("mapping a page of shared memory: {stop:?}")));
    }
    uffd.protect(range).map_err(step("write-protecting shared memory"))?;
    uffd.unprotect(range)
}

/// A private mapping of a memfd that has its page.
fn page_of_memfd() -> io::Result<(Mapping, Range)> {
    let file = memfd::create(c"forkd-probe", PAGE_SIZE as u64).map_err(step("creating a memfd"))?;
    Mapping::read_write(&file, PAGE_SIZE)?.write(0, &[1]);
    let area = Mapping::anonymous(PAGE_SIZE)?;
    let range = page_at(&area);
    // SAFETY: replaces the pages of a mapping that was just made and that no other code knows.
    unsafe { memfd::map_private_over(range.start, range.len(), file.as_fd(), 0) }?;
    Ok((area, range))
}

fn page_at(area: &Mapping) -> Range {
    let start = area.target(0, PAGE_SIZE) as u64;
    Range {
        start,
        end: start + PAGE_SIZE as u64,
    }
}

fn step(name: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_runs_the_tests_has_it_all() {
        probe().expect("write-protection");
        probe_missing().expect("missing pages");
        probe_sharing().expect("minor faults");
    }
}
