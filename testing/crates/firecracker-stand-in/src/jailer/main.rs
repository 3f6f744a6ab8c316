//! A stand-in for Firecracker's jailer. It takes the same arguments, and really confines a process in the same way.
//!
//! The steps, in the order of the real jailer:
//! 1. Close descriptors beyond the first three, and clear the environment.
//! 2. Copy the program into `BASE/NAME/ID/root`, which is created if it is missing.
//! 3. Enter the network namespace, and set the limits.
//! 4. Create a mount namespace whose root is that directory, with the devices that a VMM needs, owned by the VMM's user.
//! 5. Become that user, and then the program, under the same pid unless another was requested.
//!
//! The stand-in differs in two ways. It makes no cgroups, and refuses arguments that ask for them. And it copies
//! `stand-in.json`, which configures the stand-in for Firecracker, along with the program.

mod arguments;

use arguments::{Arguments, Wanted};
use forkd_linux_sys::confine::{self, Limit, Namespace};
use forkd_linux_sys::mounts;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const CONFIG: &str = "stand-in.json";

/// Made in the new root, for the VMM's user alone.
const DIRECTORIES: [&str; 4] = ["/", "/dev", "/dev/net", "/run"];

/// Where the host has them.
const DEVICES: [&str; 4] = ["/dev/net/tun", "/dev/kvm", "/dev/urandom", "/dev/userfaultfd"];

fn main() -> ExitCode {
    let wanted = match arguments::parse(std::env::args().skip(1)) {
        Ok(Wanted::Version) => {
            println!("Jailer v1.13.1\n");
            return ExitCode::SUCCESS;
        }
        Ok(Wanted::Jail(arguments)) => arguments,
        Err(why) => {
            eprintln!("Arguments parsing error: {why} \n\nFor more information try --help.");
            return ExitCode::FAILURE;
        }
    };
    let Err(why) = jail(&wanted);
    eprintln!("Jailer error: {why}");
    ExitCode::FAILURE
}

/// Jails this process. Returns only after a failure.
fn jail(wanted: &Arguments) -> Result<std::convert::Infallible, String> {
    close_inherited();
    let program = fs::canonicalize(&wanted.exec_file).map_err(at("Failed to canonicalize path", &wanted.exec_file))?;
    let base = fs::canonicalize(&wanted.chroot_base).map_err(at("Failed to canonicalize path", &wanted.chroot_base))?;
    let name = program.file_name().unwrap_or_default();
    if !name.to_string_lossy().contains("firecracker") {
        let name = name.display();
        return Err(format!(
            "Invalid filename. The filename of `--exec-file` option must contain \"firecracker\": {name}"
        ));
    }
    let root = base.join(name).join(&wanted.id).join("root");
    fs::create_dir_all(&root).map_err(at("Failed to create directory", &root))?;
    fs::copy(&program, root.join(name)).map_err(at("Failed to copy", &program))?;
    // A stand-in that nobody has configured has none.
    let _ = fs::copy(program.with_file_name(CONFIG), root.join(CONFIG));
    if let Some(path) = &wanted.netns {
        join_network(path).map_err(at("Failed to join network namespace", path))?;
    }
    for (limit, value) in [
        (Limit::OpenFiles, Some(wanted.no_file)),
        (Limit::FileBytes, wanted.fsize),
    ] {
        if let Some(value) = value {
            confine::limit(limit, value).map_err(|error| format!("Failed to set limit for resource: {error}"))?;
        }
    }
    let devices = DEVICES.map(|path| (path, fs::metadata(path).ok().map(|found| found.rdev())));
    let null = wanted
        .daemonize
        .then(|| File::options().read(true).write(true).open("/dev/null"));
    let null = null.transpose().map_err(at("Failed to open", Path::new("/dev/null")))?;
    enter(&root).map_err(at("Failed to enter", &root))?;
    own(wanted, &devices)?;
    if let Some(null) = null {
        daemonize(&null).map_err(|error| format!("Failed to daemonize: {error}"))?;
    }
    become_program(wanted, &Path::new("/").join(name))
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> String {
    let path = path.display().to_string();
    move |error| format!("{what} {path}: {error}")
}

/// All but input, output and error.
fn close_inherited() {
    // SAFETY: nothing of this process is open yet.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

fn join_network(path: &Path) -> io::Result<()> {
    let namespace = File::open(path)?;
    // SAFETY: the descriptor lives through the call.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

fn enter(root: &Path) -> io::Result<()> {
    confine::unshare(Namespace::Mount)?;
    mounts::detach_from_others()?;
    mounts::bind(root, root)?;
    std::env::set_current_dir(root)?;
    mounts::make_working_directory_the_root()
}

/// Makes what a VMM needs in its root, and gives it to its user.
fn own(wanted: &Arguments, devices: &[(&str, Option<u64>)]) -> Result<(), String> {
    let give = |path: &Path, mode: u32| {
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(at("Failed to change permissions on", path))?;
        chown(path, Some(wanted.uid), Some(wanted.gid)).map_err(at("Failed to change owner for", path))
    };
    for path in DIRECTORIES.map(Path::new) {
        fs::create_dir_all(path).map_err(at("Failed to create directory", path))?;
        give(path, 0o700)?;
    }
    for (path, number) in devices {
        let (path, Some(number)) = (Path::new(path), number) else {
            continue;
        };
        mounts::make_device(path, *number).map_err(at("Failed to create via mknod inside the jail", path))?;
        give(path, 0o600)?;
    }
    Ok(())
}

fn daemonize(null: &File) -> io::Result<()> {
    // SAFETY: calls with integer arguments, on descriptors that live through them.
    unsafe {
        check(libc::setsid())?;
        (0..3).try_for_each(|number| check(libc::dup2(null.as_raw_fd(), number)))
    }
}

fn become_program(wanted: &Arguments, program: &Path) -> Result<std::convert::Infallible, String> {
    if wanted.new_pid_ns {
        // SAFETY: calls with integer arguments, in a process of one thread.
        let child = unsafe {
            check(libc::unshare(libc::CLONE_NEWPID)).map_err(|error| format!("Failed cloning: {error}"))?;
            libc::fork()
        };
        check(child).map_err(|error| format!("Failed cloning into a new child process: {error}"))?;
        if child > 0 {
            let path = PathBuf::from(format!("{}.pid", program.display()));
            fs::write(&path, child.to_string()).map_err(at("Failed to write to", &path))?;
            std::process::exit(0);
        }
    }
    let mut command = Command::new(program);
    command.env_clear().uid(wanted.uid).gid(wanted.gid);
    command.args(["--id", &wanted.id, "--start-time-us", "1", "--start-time-cpu-us", "1"]);
    let error = command.args(&wanted.extra).exec();
    Err(format!("Failed to exec into Firecracker: {error}"))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
