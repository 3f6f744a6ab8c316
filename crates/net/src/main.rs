//! `forkd-net --run-dir DIR [--resolver ADDRESS:PORT]…`: listens at `DIR/net.sock` for controllers and launchers.
//!
//! The controller starts it, and it outlives the controller. A lock on `DIR/net.lock` keeps a second one out. It is two
//! processes: a [`keeper`], and a [`worker`] with no rights, which it starts as `forkd-net --serve`.

mod addresses;
mod client_hello;
mod control;
mod dns;
mod filter;
mod host;
mod journal;
mod keeper;
mod ledger;
mod limits;
mod lines;
mod link;
mod packets;
mod policy;
mod resolve;
mod sandbox;
mod stack;
mod tcp;
mod udp;
mod wires;
mod worker;

use forkd_linux_sys::{EX_TEMPFAIL, fds};
use keeper::{Keeper, Settings};
use std::fs::{File, Permissions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: forkd-net --run-dir DIR [--resolver ADDRESS:PORT]…";
const RESOLVERS_FILE: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["--serve"] {
        return match worker::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&format!("serving: {error}")),
        };
    }
    let Some((run_dir, resolvers)) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match keep(&run_dir, resolvers) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("forkd-net: another forkd-net serves {}", run_dir.display());
            ExitCode::from(EX_TEMPFAIL)
        }
        Err(reason) => failed(&reason),
    }
}

fn failed(reason: &str) -> ExitCode {
    eprintln!("forkd-net: {reason}");
    ExitCode::FAILURE
}

fn parse(arguments: &[String]) -> Option<(PathBuf, Vec<SocketAddr>)> {
    let (mut run_dir, mut resolvers) = (None, Vec::new());
    for pair in arguments.chunks(2) {
        match pair {
            [flag, dir] if flag == "--run-dir" => run_dir = Some(PathBuf::from(dir)),
            [flag, resolver] if flag == "--resolver" => resolvers.push(resolver.parse().ok()?),
            _ => return None,
        }
    }
    Some((run_dir?, resolvers))
}

/// Keeps wires until it is told to end. False if another process does so.
fn keep(run_dir: &Path, resolvers: Vec<SocketAddr>) -> Result<bool, String> {
    let describe = |what: &str, path: &Path| {
        let what = format!("{what} {}", path.display());
        move |error: io::Error| format!("{what}: {error}")
    };
    let lock_path = run_dir.join("net.lock");
    let lock = File::create(&lock_path).map_err(describe("opening", &lock_path))?;
    if lock.try_lock().is_err() {
        return Ok(false);
    }
    let log_path = run_dir.join("net.log");
    forkd_log::to_file("forkd-net", &log_path).map_err(describe("opening", &log_path))?;
    let root = run_dir.join("net-root");
    empty_dir(&root).map_err(describe("making", &root))?;
    let socket = run_dir.join("net.sock");
    let listener = fds::listen(&socket, Some(0o600)).map_err(describe("listening at", &socket))?;
    let resolvers = if resolvers.is_empty() {
        system_resolvers()
    } else {
        resolvers
    };
    let settings = Settings { resolvers, root };
    let keeper = Keeper {
        settings,
        listener,
        lock,
    };
    keeper.run().map_err(|error| format!("starting a worker: {error}"))?;
    // Fails only if it is gone already.
    let _ = std::fs::remove_file(&socket);
    Ok(true)
}

fn empty_dir(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => std::fs::set_permissions(path, Permissions::from_mode(0o555)),
    }
}

/// The name servers of the host. Without any, no name can be resolved.
fn system_resolvers() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(RESOLVERS_FILE).unwrap_or_else(|error| {
        forkd_log::line("resolver", &format!("reading {RESOLVERS_FILE}: {error}"));
        String::new()
    });
    let servers = text
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    servers.map(|server| SocketAddr::new(server, DNS_PORT)).collect()
}
