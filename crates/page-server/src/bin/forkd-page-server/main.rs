//! `forkd-page-server`: serves the memory of VMs page by page, for VMMs that hand over a userfaultfd, as Firecracker does.

mod control;
mod forks;
mod options;

use forkd_layers::{Stack, read_layer};
use forkd_linux_sys::EX_TEMPFAIL;
use forkd_linux_sys::fds;
use forkd_page_server::{ArrivingTemplate, MemoryTemplate, PageServer, Record, ServerOptions, StackTemplate, Template};
use forks::Forks;
use options::{Command, Options, USAGE};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs::File;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The name of this program in messages.
const PROGRAM: &str = "forkd-page-server";
/// How long standard input may bring nothing.
const STALL: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    forkd_log::to_stderr(PROGRAM);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = match Options::parse(&arguments) {
        Ok(Command::Help) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Ok(Command::Serve(options)) => options,
        Err(reason) => {
            eprintln!("{PROGRAM}: {reason}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("{PROGRAM}: another one serves {}", options.socket_dir.display());
            ExitCode::from(EX_TEMPFAIL)
        }
        Err(reason) => {
            eprintln!("{PROGRAM}: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until it has been told to drain and the last fork has ended. Returns false if another process serves the directory.
fn run(options: &Options) -> Result<bool, String> {
    let describe = |what: String| move |error: io::Error| format!("{what}: {error}");
    let lock_path = options.socket_dir.join("serve.lock");
    let lock = File::create(&lock_path).map_err(describe(format!("opening {}", lock_path.display())))?;
    if lock.try_lock().is_err() {
        return Ok(false);
    }
    let template = load(options)?;
    let server = PageServer::start(ServerOptions {
        forks_max: options.forks,
        ..ServerOptions::default()
    });
    let server = server.map_err(|error| error.to_string())?;
    let load = |path| Record::load_if_usable(path, &template.identity(), template.pages());
    let prefetch = options.record.as_deref().and_then(load);
    let forks = Forks::new(server, template, options, prefetch).map_err(describe("making an eventfd".into()))?;
    let forks = Arc::new(forks);
    drain_at_signal(&forks).map_err(describe("awaiting signals".into()))?;
    let path = options.socket_dir.join("control.sock");
    let listener = fds::listen(&path, Some(0o600)).map_err(describe(format!("listening at {}", path.display())))?;
    println!("{}", serde_json::json!({ "control": path }));
    control::serve(&listener, &forks).map_err(describe(format!("serving {}", path.display())))?;
    // All forks have ended, so a failure to remove the socket harms no VM.
    let _ = std::fs::remove_file(&path);
    drop(lock);
    Ok(true)
}

/// Makes SIGINT and SIGTERM a request to drain, for service managers. A second signal does not hurry it: VMs need their memory.
fn drain_at_signal(forks: &Arc<Forks>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let forks = forks.clone();
    let drain = move || signals.forever().for_each(|_| forks.draining.signal());
    std::thread::Builder::new().name("signals".into()).spawn(drain)?;
    Ok(())
}

fn load(options: &Options) -> Result<Arc<dyn Template>, String> {
    if let Some(pages) = options.stream_pages {
        let template = ArrivingTemplate::start(io::stdin(), pages, "standard input".into(), STALL);
        return Ok(Arc::new(
            template.map_err(|error| format!("reading standard input: {error}"))?,
        ));
    }
    if let Some(path) = &options.template {
        let template = MemoryTemplate::load(path);
        return Ok(Arc::new(
            template.map_err(|error| format!("reading {}: {error}", path.display()))?,
        ));
    }
    let mut layers = Vec::new();
    let mut names = Vec::new();
    for path in &options.layers {
        let name = path
            .file_name()
            .map(|name| format!("sha256:{}", name.to_string_lossy()));
        let name = name.ok_or_else(|| format!("{} is no layer", path.display()))?;
        let mut input = File::open(path).map_err(|error| format!("opening {}: {error}", path.display()))?;
        let layer = read_layer(&mut input, &name).map_err(|error| format!("{}: {error}", path.display()))?;
        layers.push(Arc::new(layer));
        names.push(name);
    }
    let length = layers.first().map_or(0, |layer| layer.length);
    let stack = Stack::new(length, layers).map_err(|error| error.to_string())?;
    let template = StackTemplate::new(Arc::new(stack), names.join("+"));
    Ok(Arc::new(
        template.map_err(|error| format!("looking at the layers: {error}"))?,
    ))
}
