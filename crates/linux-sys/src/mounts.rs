//! Mounts in a private mount namespace.

use crate::check;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn mount(source: &Path, target: &Path, kind: &str, flags: libc::c_ulong, data: &str) -> io::Result<()> {
    let [source, target, kind, data] = [
        text(source)?,
        text(target)?,
        text(Path::new(kind))?,
        text(Path::new(data))?,
    ];
    let (kind, data) = (kind.as_ptr(), data.as_ptr().cast());
    // SAFETY: all strings live through the call.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind, flags, data) }.into()).map(drop)
}

/// Separates later mounts here from other namespaces, in both directions.
pub fn detach_from_others() -> io::Result<()> {
    let none = Path::new("none");
    mount(none, Path::new("/"), "", libc::MS_REC | libc::MS_PRIVATE, "")
}

/// Mounts a new file system of type `kind` at a directory. No program on it can be executed or gain privileges.
pub fn new_file_system(kind: &str, target: &Path, options: &str) -> io::Result<()> {
    let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
    mount(Path::new(kind), target, kind, flags, options)
}

/// Mounts a file or a directory at another place too, without the mounts inside it.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(source, target, "", libc::MS_BIND, "")
}

#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;

/// Makes the mount at `target`, and all mounts inside it, read-only.
pub fn make_read_only(target: &Path) -> io::Result<()> {
    let attributes = MountAttributes {
        set: MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    let target = text(target)?;
    let flags = libc::AT_RECURSIVE;
    // SAFETY: the string and the struct live through the call, which gets the struct's size.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            target.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    })?;
    Ok(())
}

/// Makes the mount that is the working directory the root of the namespace, and unmounts everything else.
pub fn make_working_directory_the_root() -> io::Result<()> {
    // The old root is put over the new one. It is found at "." until it is unmounted.
    let here = c".";
    // SAFETY: the string lives through both calls.
    unsafe {
        check(libc::syscall(libc::SYS_pivot_root, here.as_ptr(), here.as_ptr()))?;
        check(libc::umount2(here.as_ptr(), libc::MNT_DETACH).into())?;
    }
    std::env::set_current_dir("/")
}

/// Creates a character device of the given number that every user may open.
pub fn make_device(path: &Path, number: u64) -> io::Result<()> {
    let path = text(path)?;
    // SAFETY: the string lives through both calls.
    unsafe {
        check(libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o666, number).into())?;
        // Set the mode again, since the umask may have reduced it.
        check(libc::chmod(path.as_ptr(), 0o666).into())?;
    }
    Ok(())
}
