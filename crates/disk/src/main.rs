//! `forkd-disk --run-dir DIR --store-dir DIR`: listens at `DIR/disk.sock` for controllers and at `DIR/shims/disk.sock` for VMMs.
//!
//! The controller starts the server, which outlives the controller. A lock on `DIR/disk.lock` keeps a second server out.

use forkd_disk::control::{self, Server};
use forkd_disk::disks::Disks;
use forkd_disk::nbd;
use forkd_disk::recovery::Directory;
use forkd_layers::{Blobs, digest_of};
use forkd_linux_sys::EX_TEMPFAIL;
use forkd_linux_sys::confine::{self, Limit};
use forkd_linux_sys::fds;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// The most files and connections that are open at once, as far as the host allows.
const OPEN_FILES_MAX: u64 = 1 << 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let directories = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--run-dir", run, "--store-dir", store] => (PathBuf::from(run), PathBuf::from(store)),
        _ => {
            eprintln!("usage: forkd-disk --run-dir DIR --store-dir DIR");
            return ExitCode::from(2);
        }
    };
    match run(&directories.0, &directories.1) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::AnotherServes) => {
            eprintln!("forkd-disk: another server serves {}", directories.0.display());
            ExitCode::from(EX_TEMPFAIL)
        }
        Err(Failure::Other(reason)) => {
            eprintln!("forkd-disk: {reason}");
            ExitCode::FAILURE
        }
    }
}

enum Failure {
    AnotherServes,
    Other(String),
}

impl From<String> for Failure {
    fn from(reason: String) -> Failure {
        Failure::Other(reason)
    }
}

fn run(run_dir: &Path, store_dir: &Path) -> Result<(), Failure> {
    let describe = |what: String| move |error: io::Error| format!("{what}: {error}");
    // Keep the file open, and thus locked, until the process ends.
    let lock = File::create(run_dir.join("disk.lock"))
        .map_err(describe(format!("opening a lock in {}", run_dir.display())))?;
    lock.try_lock().map_err(|_| Failure::AnotherServes)?;
    let log_path = run_dir.join("disk.log");
    forkd_log::to_file("forkd-disk", &log_path).map_err(describe(format!("opening {}", log_path.display())))?;
    confine::forbid_new_privileges().map_err(describe("giving up rights".into()))?;
    confine::limit(Limit::OpenFiles, OPEN_FILES_MAX).map_err(describe("raising the limit of open files".into()))?;

    let blobs = Blobs::open_shared(store_dir).map_err(|error| error.message)?;
    let run_dir = run_dir
        .canonicalize()
        .map_err(describe(format!("looking for {}", run_dir.display())))?;
    // Several data directories may have one store. Layers are linked into it, so they must be on its file system.
    let name = digest_of(run_dir.as_os_str().as_bytes()).replace("sha256:", "");
    let directory = Directory::open(&store_dir.join("disks").join(name)).map_err(|error| error.message)?;
    let (layers, found) = directory.recover(blobs).map_err(|error| error.message)?;
    let disks = Arc::new(Disks::new(directory.disks, layers, found));

    // VMMs see only this directory of the server, so that they find the next server's socket, too.
    let vmms_dir = run_dir.join("shims");
    open_to_vmms(&vmms_dir).map_err(describe(format!("making {}", vmms_dir.display())))?;
    let sockets = vec![run_dir.join("disk.sock"), vmms_dir.join("disk.sock")];
    let listen =
        |path: &Path, mode| fds::listen(path, Some(mode)).map_err(describe(format!("listening at {}", path.display())));
    let vmms = listen(&sockets[1], 0o666)?;
    let served = disks.clone();
    let spawned = std::thread::Builder::new()
        .name("vmms".into())
        .spawn(move || nbd::server::serve(&vmms, &served));
    spawned.map_err(describe("starting a thread".into()))?;
    // Listen last: a controller that can connect finds everything in place.
    let controllers = listen(&sockets[0], 0o600)?;
    control::serve(&controllers, &Arc::new(Server { disks, sockets }));
    drop(lock);
    Ok(())
}

/// Makes a directory that VMMs, which run as other users, may enter. The directory above it keeps all others out.
fn open_to_vmms(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::set_permissions(path, Permissions::from_mode(0o711)),
    }
}
