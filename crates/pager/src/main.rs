//! `forkd-pager --run-dir DIR --store-dir DIR`: listens at `DIR/pager.sock` for controllers and at `DIR/shims/shim.sock` for VMMs.
//!
//! The controller starts the pager, which outlives the controller. A lock on `DIR/pager.lock` keeps a second pager out.
//!
//! `forkd-pager --probe` prints what the kernel can do, as JSON, and ends.

mod attachment;
mod branch;
mod bridge;
mod connections;
mod control;
mod error;
mod firecracker;
mod idle;
mod inside;
mod monitor;
mod pages;
mod probe;
mod refresh;
mod sandbox;
mod sandboxes;
mod server;
mod shim;
mod socket;
mod wire;
mod writers;

use forkd_layers::{Blobs, Layers, host_memory};
use forkd_linux_sys::EX_TEMPFAIL;
use forkd_linux_sys::fds;
use server::Pager;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time for which the time stamp counter is compared with the clock.
const TSC_WINDOW: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let directories = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--run-dir", run, "--store-dir", store] => (PathBuf::from(run), PathBuf::from(store)),
        ["--probe"] => {
            println!("{}", probe::report());
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("usage: forkd-pager --run-dir DIR --store-dir DIR\n       forkd-pager --probe");
            return ExitCode::from(2);
        }
    };
    match run(&directories.0, &directories.1) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::AnotherServes) => {
            eprintln!("forkd-pager: another pager serves {}", directories.0.display());
            ExitCode::from(EX_TEMPFAIL)
        }
        Err(Failure::Other(reason)) => {
            eprintln!("forkd-pager: {reason}");
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
    let lock = File::create(run_dir.join("pager.lock"))
        .map_err(describe(format!("opening a lock in {}", run_dir.display())))?;
    lock.try_lock().map_err(|_| Failure::AnotherServes)?;
    let log_path = run_dir.join("pager.log");
    forkd_log::to_file("forkd-pager", &log_path).map_err(describe(format!("opening {}", log_path.display())))?;
    // VMMs see only this directory of the pager, so that they find the next pager's socket, too.
    let shims_dir = run_dir.join("shims");
    open_to_vmms(&shims_dir).map_err(describe(format!("making {}", shims_dir.display())))?;
    let paths = [run_dir.join("pager.sock"), shims_dir.join("shim.sock")];
    let shims =
        fds::listen(&paths[1], Some(0o666)).map_err(describe(format!("listening at {}", paths[1].display())))?;
    let mark = writers::mark(store_dir, run_dir).map_err(|error| error.message)?;
    let blobs = if mark.is_alone {
        Blobs::open(store_dir)
    } else {
        Blobs::open_shared(store_dir)
    };
    let blobs = blobs.map_err(|error| error.message)?;
    let budget_bytes = host_memory::default_budget_bytes().map_err(|error| error.message)?;
    let pager = Arc::new(Pager {
        blobs,
        layers: Layers::new(budget_bytes, |message| forkd_log::line("layers", message)),
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
    let keeper = pager.clone();
    let spawned = std::thread::Builder::new()
        .name("keeper".into())
        .spawn(move || keeper.layers.keep());
    spawned.map_err(describe("starting a thread".into()))?;
    // Listen last: a controller that can connect finds everything in place.
    let controllers =
        fds::listen(&paths[0], Some(0o600)).map_err(describe(format!("listening at {}", paths[0].display())))?;
    server::serve(&controllers, &pager);
    drop((lock, mark));
    Ok(())
}

/// Creates a directory that VMMs, which run as other users, may enter. The directory above it keeps all others out.
fn open_to_vmms(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => std::fs::set_permissions(path, Permissions::from_mode(0o711)),
    }
}

/// Measures the rate of the time stamp counter. An emulated guest cannot do so: the host's scheduler disturbs its timers.
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
