//! The root file system: a read-only image that all children share, under an overlay in this machine's own memory or on its
//! own disk.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::{BootError, step};
use crate::{root_files, sys};

const DEVICE_DEADLINE: Duration = Duration::from_secs(15);
const DEVICE_LOOK_INTERVAL: Duration = Duration::from_millis(2);
const FSTYPE_DEFAULT: &str = "erofs";
/// Memory that the overlay leaves to programs, however little there is.
const LEFT_TO_PROGRAMS_KIB: u64 = 40 * 1024;

const LOWER: &CStr = c"/forkd/lower";
/// Holds the files that the machine writes.
const WRITABLE: &CStr = c"/forkd/writable";
const NEW_ROOT: &CStr = c"/forkd/root";
/// A freed block is freed on the host. The kernel does not write zeros to inode tables that nobody uses: unwritten blocks read
/// as zeros anyway.
const DISK_OPTIONS: &CStr = c"discard,noinit_itable";
/// Mounted before the switch, and taken along.
const TAKEN_ALONG: [(&CStr, &CStr); 3] = [
    (c"/dev", c"/forkd/root/dev"),
    (c"/proc", c"/forkd/root/proc"),
    (c"/sys", c"/forkd/root/sys"),
];

#[derive(Debug, PartialEq, Eq)]
pub struct Root {
    device: String,
    fstype: String,
    /// The size of the overlay's tmpfs, if the command line has one.
    overlay_size: Option<String>,
    /// The disk with an ext4 file system that the overlay is on, in place of a tmpfs.
    disk: Option<String>,
}

impl Root {
    /// The root file system that the kernel's command line names. `None`: stay in the initramfs.
    pub fn asked_for(command_line: &str) -> Option<Root> {
        let value = |name: &str| {
            let mut words = command_line.split_whitespace();
            words.find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
        };
        Some(Root {
            device: value("forkd.root")?,
            fstype: value("forkd.rootfstype").unwrap_or_else(|| FSTYPE_DEFAULT.into()),
            overlay_size: value("forkd.overlay"),
            disk: value("forkd.disk"),
        })
    }

    /// Makes the image, with an overlay, the root of this process and of all that come after it.
    pub fn switch(&self) -> Result<(), BootError> {
        for device in [Some(&self.device), self.disk.as_ref()].into_iter().flatten() {
            wait_for_device(device)?;
        }
        self.mount_overlay()?;
        for (from, to) in TAKEN_ALONG {
            let (from_text, to_text) = (from.to_string_lossy(), to.to_string_lossy());
            step(format_args!("make {to_text}"), root_files::own_directory(&to_text))?;
            let moved = sys::mount(from, to, None, libc::MS_MOVE, None);
            step(format_args!("move {from_text}"), moved)?;
        }
        // The files of the initramfs occupy memory that nobody needs any more.
        empty_initramfs();
        let enter = || -> io::Result<()> {
            std::env::set_current_dir("/forkd/root")?;
            sys::mount(NEW_ROOT, c"/", None, libc::MS_MOVE, None)?;
            sys::chroot(c".")?;
            std::env::set_current_dir("/")
        };
        step("switch root", enter())
    }

    fn mount_overlay(&self) -> Result<(), BootError> {
        for folder in [LOWER, WRITABLE, NEW_ROOT] {
            let folder = folder.to_string_lossy();
            step(format_args!("make {folder}"), fs::create_dir_all(&*folder))?;
        }
        let (device, fstype) = (text(&self.device), text(&self.fstype));
        let image = sys::mount(&device, LOWER, Some(&fstype), libc::MS_RDONLY, None);
        step(format_args!("mount {} as {}", self.device, self.fstype), image)?;
        match &self.disk {
            Some(disk) => mount_disk(&text(disk))?,
            None => self.mount_memory()?,
        }
        for folder in ["/forkd/writable/upper", "/forkd/writable/work"] {
            step(format_args!("make {folder}"), fs::create_dir(folder))?;
        }
        let folders = c"lowerdir=/forkd/lower,upperdir=/forkd/writable/upper,workdir=/forkd/writable/work";
        let overlay = sys::mount(c"overlay", NEW_ROOT, Some(c"overlay"), 0, Some(folders));
        step("mount the overlay", overlay)
    }

    fn mount_memory(&self) -> Result<(), BootError> {
        let size = match &self.overlay_size {
            Some(size) => size.clone(),
            None => {
                let memory = step("read /proc/meminfo", fs::read_to_string("/proc/meminfo"))?;
                format!("{}k", overlay_kib(&memory))
            }
        };
        let size = text(&format!("mode=0755,size={size}"));
        let memory = sys::mount(c"tmpfs", WRITABLE, Some(c"tmpfs"), 0, Some(&size));
        step("mount the overlay's memory", memory)
    }
}

fn mount_disk(disk: &CStr) -> Result<(), BootError> {
    let mounted = sys::mount(disk, WRITABLE, Some(c"ext4"), 0, Some(DISK_OPTIONS));
    step(format_args!("mount {} as ext4", disk.to_string_lossy()), mounted)
}

/// The device appears when its driver has found it: looked for until then, with a deadline.
fn wait_for_device(device: &str) -> Result<(), BootError> {
    let deadline = Instant::now() + DEVICE_DEADLINE;
    loop {
        match fs::metadata(device) {
            Ok(metadata) if metadata.file_type().is_block_device() => return Ok(()),
            _ if Instant::now() < deadline => thread::sleep(DEVICE_LOOK_INTERVAL),
            _ => {
                let absent = io::Error::from(io::ErrorKind::NotFound);
                return step(format_args!("wait for {device}"), Err(absent));
            }
        }
    }
}

fn text(text: &str) -> CString {
    CString::new(text).expect("a command line holds no NUL")
}

/// The default size of the overlay: three quarters of the memory, but never so much that a full overlay leaves programs no
/// room. A write must fail with "no space" before it makes the guest run out of memory.
fn overlay_kib(meminfo: &str) -> u64 {
    let value = |name: &str| {
        let line = meminfo
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok())
    };
    let total = value("MemTotal").unwrap_or(0);
    let available = value("MemAvailable").unwrap_or(total);
    let left = available.saturating_sub(LEFT_TO_PROGRAMS_KIB);
    (total / 4 * 3).min(left.max(available / 4))
}

/// Removes the files of the initramfs, and of nothing that is mounted on it. What cannot be removed only costs its memory.
fn empty_initramfs() {
    if let Ok(root) = fs::metadata("/") {
        remove_on_device(Path::new("/"), root.dev());
    }
}

fn remove_on_device(folder: &Path, device: u64) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.dev() != device => {}
            Ok(metadata) if metadata.is_dir() => {
                remove_on_device(&path, device);
                let _ = fs::remove_dir(&path);
            }
            _ => {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read() {
        let given = "console=ttyS0 forkd.root=/dev/vdb forkd.rootfstype=ext4 forkd.overlay=64m forkd.disk=/dev/vdc\n";
        let root = Root::asked_for(given).expect("asked for");
        assert_eq!(root.device, "/dev/vdb");
        assert_eq!(
            (root.fstype.as_str(), root.overlay_size.as_deref()),
            ("ext4", Some("64m"))
        );
        assert_eq!(root.disk.as_deref(), Some("/dev/vdc"));
        let root = Root::asked_for("forkd.root=/dev/vda").expect("asked for");
        assert_eq!((root.fstype.as_str(), root.overlay_size.as_deref()), ("erofs", None));
        assert_eq!(root.disk, None);
        assert_eq!(Root::asked_for("root=/dev/vda forkd.rootless=1"), None);
    }

    #[test]
    fn a_full_overlay_leaves_room_for_programs() {
        let kib = |total: u64, available: u64| {
            overlay_kib(&format!(
                "MemTotal:       {total} kB\nMemFree:  1 kB\nMemAvailable:   {available} kB\n"
            ))
        };
        assert_eq!(kib(1_000_000, 960_000), 750_000);
        assert_eq!(kib(100_000, 80_000), 80_000 - LEFT_TO_PROGRAMS_KIB);
        assert_eq!(kib(60_000, 44_000), 11_000);
    }
}
