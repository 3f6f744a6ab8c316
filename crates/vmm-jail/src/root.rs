//! The root of a VMM's own: what it needs of the host to run, read-only, and nothing else.
//!
//! ```text
//! /usr /lib /lib64 …    programs, libraries, firmware: the host's
//! /etc/ld.so.cache      where libraries are: the host's
//! /dev                  null, urandom, and kvm where there is one
//! /proc                 of this process alone
//! /pager                the socket that its shim calls
//! ```

use forkd_linux_sys::mounts;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

/// Where the directory of the pager's socket is.
pub const PAGER: &str = "/pager";

/// Parts of the host that are visible, if they exist. A link becomes a link.
const SHOWN: [&str; 5] = ["/usr", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache"];

const DEVICES: [&str; 3] = ["/dev/null", "/dev/urandom", "/dev/kvm"];

/// Makes it, in a mount namespace that has just been made, on top of the directory `place`, and makes it the root.
pub fn enter(place: &Path, pager: &Path) -> io::Result<()> {
    mounts::detach_from_others()?;
    // The file system holds no files and becomes read-only: its size is for mount points.
    mounts::new_file_system("tmpfs", place, "mode=0755,size=64k,nr_inodes=64")?;
    std::env::set_current_dir(place)?;
    fill(pager).and_then(|()| mounts::make_read_only(Path::new(".")))?;
    mounts::make_working_directory_the_root()
}

fn fill(pager: &Path) -> io::Result<()> {
    for name in ["etc", "dev", "proc", "pager"] {
        fs::create_dir(name)?;
    }
    for path in SHOWN.map(Path::new) {
        show(path)?;
    }
    for path in DEVICES.map(Path::new) {
        if let Ok(device) = fs::metadata(path) {
            mounts::make_device(&inside(path), device.rdev())?;
        }
    }
    mounts::new_file_system("proc", Path::new("proc"), "hidepid=ptraceable,subset=pid")?;
    mounts::bind(pager, &inside(Path::new(PAGER)))
}

/// Where a path of the VMM's is while its root is still the working directory.
fn inside(path: &Path) -> std::path::PathBuf {
    path.strip_prefix("/").unwrap_or(path).into()
}

fn show(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let place = inside(path);
    if found.is_symlink() {
        return symlink(fs::read_link(path)?, place);
    }
    if found.is_dir() {
        fs::create_dir(&place)?;
    } else {
        File::create(&place)?;
    }
    mounts::bind(path, &place)
}
