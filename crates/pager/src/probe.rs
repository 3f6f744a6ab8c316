//! `forkd-pager --probe`: tests the kernel features that live branches and layers need, and prints the results as one
//! line of JSON. Leaves nothing behind.

use forkd_linux_sys::memfd::{self, Mapping};
use forkd_linux_sys::{PAGE_SIZE, pagemap, uffd};
use serde::Serialize;
use std::io;
use std::os::unix::fs::FileExt;

/// The reason why each ability is unavailable, with the number of the error. `null`: tested, and it works.
#[derive(Serialize)]
struct Report {
    /// Write-protection of a private mapping of a memfd.
    live_unavailable: Option<String>,
    /// Filling pages that VMs request.
    missing_unavailable: Option<String>,
    /// Mapping pages of a memfd into VMs without copying them.
    sharing_unavailable: Option<String>,
    memfd_unavailable: Option<String>,
    /// Sealing a memfd against every write.
    seal_unavailable: Option<String>,
    /// `PAGEMAP_SCAN`, with reading the page map as the substitute.
    pagemap_scan_unavailable: Option<String>,
    /// Listing private pages by either method.
    page_list_unavailable: Option<String>,
}

/// The report as one line.
pub fn report() -> String {
    let reason = |result: io::Result<()>| result.err().map(|error| error.to_string());
    let report = Report {
        live_unavailable: reason(uffd::probe()),
        missing_unavailable: reason(uffd::probe_missing()),
        sharing_unavailable: reason(uffd::probe_sharing()),
        memfd_unavailable: reason(memfd::create(c"forkd-probe", PAGE_SIZE as u64).map(drop)),
        seal_unavailable: reason(seal()),
        pagemap_scan_unavailable: reason(pagemap::probe_ioctl()),
        page_list_unavailable: reason(pagemap::probe()),
    };
    serde_json::to_string(&report).expect("a report is plain data")
}

/// Seals a memfd, and checks that the file can no longer be written but that a private mapping of it can.
fn seal() -> io::Result<()> {
    let file = memfd::create(c"forkd-probe", PAGE_SIZE as u64)?;
    memfd::seal(&file)?;
    if file.write_at(&[1], 0).is_ok() {
        return Err(io::Error::other("a sealed memfd could be written"));
    }
    Mapping::private(&file, PAGE_SIZE)?.write(0, &[1]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_memfd_is_mapped_and_cannot_be_written() {
        seal().expect("sealed");
    }

    #[test]
    fn the_report_has_every_field_and_says_what_works_with_null() {
        let report: serde_json::Value = serde_json::from_str(&report()).expect("JSON");
        let fields = report.as_object().expect("an object");
        assert_eq!(fields.len(), 7);
        assert!(fields["memfd_unavailable"].is_null() && fields["page_list_unavailable"].is_null());
    }
}
