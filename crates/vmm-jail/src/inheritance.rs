//! Descriptors that a VMM inherits. They are opened while that is allowed, and have the numbers that its command line
//! names.

use crate::arguments::Run;
use crate::network;
use crate::root::PAGER;
use crate::step::Step;
use forkd_linux_sys::{confine, memfd, uffd};
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

// Twins of the numbers in packages/engine/src/qemu/arguments.ts, and 100 of the shim's; 101 is the shim's own.
const NETWORK: i32 = 99;
const MEMORY: i32 = 100;
const ROOT_IMAGE: i32 = 102;
const CONSOLE: i32 = 103;
/// The first of the sockets, in their order.
const SOCKETS: i32 = 104;
const SHIM: i32 = 107;
const UFFD_DEVICE: i32 = 108;
const PAGER_DIR: i32 = 109;
/// The first of the files that it gets a copy of, in their order.
const FILES: i32 = 110;

/// Where it listens, in its directory.
const SOCKET_NAMES: [&str; 3] = ["monitor.sock", "pager.sock", "channel.sock"];

/// Open, and not yet left to anybody.
pub struct Inheritance {
    descriptors: Vec<(i32, OwnedFd)>,
    environment: Vec<(&'static str, String)>,
}

/// Opens and makes all that `run` says. The working directory is the VMM's from here on.
pub fn prepare(run: &Run) -> Result<Inheritance, String> {
    let at = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("{what}: {error}")
    };
    std::env::set_current_dir(&run.dir).map_err(at(&run.dir.to_string_lossy()))?;
    let open = |path: &Path| File::open(path).map_err(at(&path.to_string_lossy()));
    let memory = memfd::create(c"forkd-ram", run.mem_bytes).map_err(at("making the memory file"))?;
    let console = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open("console.log");
    let mut descriptors: Vec<(i32, OwnedFd)> = vec![
        (MEMORY, memory.into()),
        (ROOT_IMAGE, open(&run.root_image)?.into()),
        (CONSOLE, console.map_err(at("console.log"))?.into()),
        (SHIM, open_shim(&run.shim)?.into()),
    ];
    for (number, name) in (SOCKETS..).zip(SOCKET_NAMES) {
        descriptors.push((number, listen(name).map_err(at(name))?.into()));
    }
    for (number, path) in (FILES..).zip(&run.files) {
        let copy = copy(open(path)?).map_err(at(&path.to_string_lossy()))?;
        descriptors.push((number, copy.into()));
    }
    if let Some(socket) = &run.net_socket {
        let wire = network::attach(socket, &run.net_key).map_err(at("the network wire"))?;
        descriptors.push((NETWORK, wire));
    }
    let mut environment = vec![
        ("LD_PRELOAD", format!("/proc/self/fd/{SHIM}")),
        ("FORKD_SHIM_SOCKET", format!("{PAGER}/{}", socket_name(run))),
    ];
    // A VMM that has no right to a userfaultfd has one through this. Where there is none, live branches are refused.
    if let Ok(device) = uffd::open_device() {
        descriptors.push((UFFD_DEVICE, device.into()));
        environment.push(("FORKD_SHIM_UFFD", UFFD_DEVICE.to_string()));
    }
    if !run.steps.contains(&Step::MountNamespace) {
        // The way to it may be closed to the VMM's user.
        let dir = run.pager_dir();
        let found = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(dir);
        descriptors.push((PAGER_DIR, found.map_err(at(&dir.to_string_lossy()))?.into()));
        let path = format!("/proc/self/fd/{PAGER_DIR}/{}", socket_name(run));
        environment.push(("FORKD_SHIM_SOCKET", path));
    }
    Ok(Inheritance {
        descriptors,
        environment,
    })
}

impl Inheritance {
    /// Leaves them to the program that this process becomes. What the launcher has open besides ends with it.
    pub fn bequeath(&self) -> io::Result<()> {
        let leave = |(number, fd): &(i32, OwnedFd)| confine::bequeath(fd.as_fd(), *number);
        self.descriptors.iter().try_for_each(leave)
    }

    pub fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment.iter().map(|(name, value)| (*name, value.as_str()))
    }
}

fn socket_name(run: &Run) -> String {
    let name = run.pager_socket.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The VMM's user opens it once more, as the library that it is.
fn open_shim(path: &Path) -> Result<File, String> {
    let at = |error: io::Error| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(at)?;
    let mode = file.metadata().map_err(at)?.permissions().mode();
    if mode & 0o004 == 0 {
        return Err(format!(
            "{} must be readable by every user: chmod a+r it",
            path.display()
        ));
    }
    Ok(file)
}

/// A socket in the working directory, of its owner's alone; the VMM has it already.
fn listen(name: &str) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(name)?;
    std::fs::set_permissions(name, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Copies a file to memory, for a program that opens it by name and cannot read the file itself.
fn copy(mut file: File) -> io::Result<File> {
    let mut copy = memfd::create(c"forkd-file", 0)?;
    io::copy(&mut file, &mut copy)?;
    memfd::seal(&copy)?;
    Ok(copy)
}
