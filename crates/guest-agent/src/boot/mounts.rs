//! The file systems that the kernel itself provides.

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{BootError, step};
use crate::{root_files, sys};

struct Mount {
    fstype: &'static CStr,
    target: &'static CStr,
    flags: libc::c_ulong,
    options: Option<&'static CStr>,
}

const NO_EXEC: libc::c_ulong = libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_NODEV;

/// Needed to find devices and modules: mounted in the initramfs, and moved to the new root.
const KERNEL: [Mount; 3] = [
    Mount {
        fstype: c"devtmpfs",
        target: c"/dev",
        flags: libc::MS_NOSUID,
        options: Some(c"mode=0755"),
    },
    Mount {
        fstype: c"proc",
        target: c"/proc",
        flags: NO_EXEC,
        options: None,
    },
    Mount {
        fstype: c"sysfs",
        target: c"/sys",
        flags: NO_EXEC,
        options: None,
    },
];

/// Mounted where the machine lives in the end.
const RUNTIME: [Mount; 4] = [
    Mount {
        fstype: c"devpts",
        target: c"/dev/pts",
        flags: libc::MS_NOSUID | libc::MS_NOEXEC,
        options: Some(c"mode=0620,gid=5,ptmxmode=0666"),
    },
    Mount {
        fstype: c"tmpfs",
        target: c"/dev/shm",
        flags: libc::MS_NOSUID | libc::MS_NODEV,
        options: Some(c"mode=1777"),
    },
    Mount {
        fstype: c"tmpfs",
        target: c"/run",
        flags: libc::MS_NOSUID | libc::MS_NODEV,
        options: Some(c"mode=0755"),
    },
    Mount {
        fstype: c"cgroup2",
        target: c"/sys/fs/cgroup",
        flags: NO_EXEC,
        options: None,
    },
];

pub fn kernel_file_systems() -> Result<(), BootError> {
    KERNEL.iter().try_for_each(mount)
}

pub fn runtime_file_systems() -> Result<(), BootError> {
    RUNTIME.iter().try_for_each(mount)?;
    // The root is writable already, so /tmp is too: it only has to be open to all.
    step("make /tmp", root_files::make_directory("/tmp"))?;
    let mode = fs::Permissions::from_mode(0o1777);
    step("open /tmp", fs::set_permissions("/tmp", mode))?;
    device_links()
}

fn mount(mount: &Mount) -> Result<(), BootError> {
    let target = mount.target.to_string_lossy();
    // Nothing can be created in /sys, and nothing needs to be.
    if !target.starts_with("/sys/") {
        step(format_args!("make {target}"), root_files::make_directory(&target))?;
    }
    let result = sys::mount(
        mount.fstype,
        mount.target,
        Some(mount.fstype),
        mount.flags,
        mount.options,
    );
    match result {
        // A kernel with CONFIG_DEVTMPFS_MOUNT has been here before.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
        result => step(format_args!("mount {target}"), result),
    }
}

/// Links that a udev would have made.
fn device_links() -> Result<(), BootError> {
    let links = [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ];
    for (target, link) in links {
        if fs::symlink_metadata(link).is_err() {
            step(format_args!("make {link}"), std::os::unix::fs::symlink(target, link))?;
        }
    }
    Ok(())
}
