//! `forkd-pager --run-dir DIR --store-dir DIR`: listens at `DIR/pager.sock` for controllers and at `DIR/shims/shim.sock` for VMMs.
//! `forkd-pager serve …` is something else: the page server by itself, see `serve`.
//!
//! Started by the controller; outlives it. A lock on `DIR/pager.lock` keeps it the only one.
//!
//! `forkd-pager --probe` serves nobody: it prints what the kernel can do, as JSON, and ends.

mod blobs;
mod branch;
mod bridge;
mod connections;
mod control;
mod error;
mod file;
mod firecracker;
mod idle;
mod layer;
mod layers;
mod memory_file;
mod monitor;
mod pages;
mod probe;
mod room;
mod sandbox;
mod serve;
mod server;
mod shim;
mod stack;
mod template;

use server::Pager;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the time stamp counter is held against the clock.
const TSC_WINDOW: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("serve", rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return serve::main(rest);
    }
    let directories = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--run-dir", run, "--store-dir", store] => (PathBuf::from(run), PathBuf::from(store)),
        ["--probe"] => {
            println!("{}", probe::report());
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!(
                "usage: forkd-pager --run-dir DIR --store-dir DIR\n       forkd-pager serve --help\n       forkd-pager --probe"
            );
            return ExitCode::from(2);
        }
    };
    match run(&directories.0, &directories.1) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::AnotherServes) => {
            eprintln!("forkd-pager: another pager serves {}", directories.0.display());
            ExitCode::from(ANOTHER_SERVES)
        }
        Err(Failure::Other(reason)) => {
            eprintln!("forkd-pager: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// The exit status of a pager that found another at work: whoever started it can try to connect to that one.
const ANOTHER_SERVES: u8 = 75;

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
    // Kept open, and thus locked, until the process ends.
    let lock = File::create(run_dir.join("pager.lock"))
        .map_err(describe(format!("opening a lock in {}", run_dir.display())))?;
    lock.try_lock().map_err(|_| Failure::AnotherServes)?;
    // A VMM sees this directory and nothing else of ours, so that it finds the next pager's socket too.
    let shims_dir = run_dir.join("shims");
    open_to_vmms(&shims_dir).map_err(describe(format!("making {}", shims_dir.display())))?;
    let paths = [run_dir.join("pager.sock"), shims_dir.join("shim.sock")];
    let shims = listen(&paths[1], 0o666).map_err(describe(format!("listening at {}", paths[1].display())))?;
    let pager = Arc::new(Pager {
        blobs: blobs::Blobs::open(store_dir).map_err(|error| error.message)?,
        layers: layers::Layers::default(),
        sandboxes: Arc::default(),
        idle: Arc::default(),
        pages: pages::Pages::new(run_dir.join("records")),
        live_unavailable: forkd_linux_sys::uffd::probe().err().map(|error| error.to_string()),
        tsc_khz: measure_tsc_khz(),
        sockets: paths.to_vec(),
    });
    let (sandboxes, idle) = (pager.sandboxes.clone(), pager.idle.clone());
    let spawned = std::thread::Builder::new()
        .name("shims".into())
        .spawn(move || shim::serve(&shims, &sandboxes, &idle));
    spawned.map_err(describe("starting a thread".into()))?;
    // Last, so that who can connect finds everything there.
    let controllers = listen(&paths[0], 0o600).map_err(describe(format!("listening at {}", paths[0].display())))?;
    server::serve(&controllers, &pager);
    drop(lock);
    Ok(())
}

/// A directory that VMMs, which are other users, may look into; others do not get as far as it.
fn open_to_vmms(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => std::fs::set_permissions(path, Permissions::from_mode(0o711)),
    }
}

/// Listens at `path`. The lock says that a socket found there is a dead one's.
fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(listener)
}

/// A guest under emulation cannot find this out by itself: its timers are no match for the host's scheduler.
fn measure_tsc_khz() -> u64 {
    let (start, first) = (Instant::now(), ticks());
    while start.elapsed() < TSC_WINDOW {
        std::hint::spin_loop();
    }
    let (last, elapsed) = (ticks(), start.elapsed());
    ((last - first) as u128 * 1_000_000 / elapsed.as_nanos()) as u64
}

fn ticks() -> u64 {
    // SAFETY: every processor that this program runs on has the counter.
    unsafe { std::arch::x86_64::_rdtsc() }
}
