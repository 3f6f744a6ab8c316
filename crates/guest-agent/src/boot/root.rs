//! The root file system: a read-only image that all children share, under an overlay in this machine's own memory.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::{BootError, step};
use crate::sys;

const DEVICE_DEADLINE: Duration = Duration::from_secs(15);
const DEVICE_LOOK_INTERVAL: Duration = Duration::from_millis(2);
const FSTYPE_DEFAULT: &str = "erofs";
const OVERLAY_SIZE_DEFAULT: &str = "75%";

const LOWER: &CStr = c"/forkd/lower";
const MEMORY: &CStr = c"/forkd/memory";
const NEW_ROOT: &CStr = c"/forkd/root";
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
    overlay_size: String,
}

impl Root {
    /// What the kernel's command line asks for; `None`: stay in the initramfs.
    pub fn asked_for(command_line: &str) -> Option<Root> {
        let value = |name: &str| {
            let mut words = command_line.split_whitespace();
            words.find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
        };
        Some(Root {
            device: value("forkd.root")?,
            fstype: value("forkd.rootfstype").unwrap_or_else(|| FSTYPE_DEFAULT.into()),
            overlay_size: value("forkd.overlay").unwrap_or_else(|| OVERLAY_SIZE_DEFAULT.into()),
        })
    }

    /// Makes the image, with an overlay, the root of this process and of all that come after it.
    pub fn switch(&self) -> Result<(), BootError> {
        self.wait_for_device()?;
        self.mount_overlay()?;
        for (from, to) in TAKEN_ALONG {
            let (from_text, to_text) = (from.to_string_lossy(), to.to_string_lossy());
            step(format_args!("make {to_text}"), fs::create_dir_all(&*to_text))?;
            let moved = sys::mount(from, to, None, libc::MS_MOVE, None);
            step(format_args!("move {from_text}"), moved)?;
        }
        // What the initramfs holds is memory that nobody needs any more.
        empty_initramfs();
        let enter = || -> io::Result<()> {
            std::env::set_current_dir("/forkd/root")?;
            sys::mount(NEW_ROOT, c"/", None, libc::MS_MOVE, None)?;
            sys::chroot(c".")?;
            std::env::set_current_dir("/")
        };
        step("switch root", enter())
    }

    /// The device appears when its driver has found it: looked for until then, with a deadline.
    fn wait_for_device(&self) -> Result<(), BootError> {
        let deadline = Instant::now() + DEVICE_DEADLINE;
        loop {
            match fs::metadata(&self.device) {
                Ok(metadata) if metadata.file_type().is_block_device() => return Ok(()),
                _ if Instant::now() < deadline => thread::sleep(DEVICE_LOOK_INTERVAL),
                _ => {
                    let absent = io::Error::from(io::ErrorKind::NotFound);
                    return step(format_args!("wait for {}", self.device), Err(absent));
                }
            }
        }
    }

    fn mount_overlay(&self) -> Result<(), BootError> {
        for folder in [LOWER, MEMORY, NEW_ROOT] {
            let folder = folder.to_string_lossy();
            step(format_args!("make {folder}"), fs::create_dir_all(&*folder))?;
        }
        let text = |text: &str| CString::new(text).expect("a command line holds no NUL");
        let (device, fstype) = (text(&self.device), text(&self.fstype));
        let image = sys::mount(&device, LOWER, Some(&fstype), libc::MS_RDONLY, None);
        step(format_args!("mount {} as {}", self.device, self.fstype), image)?;
        let size = text(&format!("mode=0755,size={}", self.overlay_size));
        let memory = sys::mount(c"tmpfs", MEMORY, Some(c"tmpfs"), 0, Some(&size));
        step("mount the overlay's memory", memory)?;
        for folder in ["/forkd/memory/upper", "/forkd/memory/work"] {
            step(format_args!("make {folder}"), fs::create_dir(folder))?;
        }
        let folders = c"lowerdir=/forkd/lower,upperdir=/forkd/memory/upper,workdir=/forkd/memory/work";
        let overlay = sys::mount(c"overlay", NEW_ROOT, Some(c"overlay"), 0, Some(folders));
        step("mount the overlay", overlay)
    }
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
        let given = "console=ttyS0 forkd.root=/dev/vdb forkd.rootfstype=ext4 forkd.overlay=64m quiet\n";
        let root = Root::asked_for(given).expect("asked for");
        assert_eq!(root.device, "/dev/vdb");
        assert_eq!((root.fstype.as_str(), root.overlay_size.as_str()), ("ext4", "64m"));
        let root = Root::asked_for("forkd.root=/dev/vda").expect("asked for");
        assert_eq!((root.fstype.as_str(), root.overlay_size.as_str()), ("erofs", "75%"));
        assert_eq!(Root::asked_for("root=/dev/vda forkd.rootless=1"), None);
    }
}
