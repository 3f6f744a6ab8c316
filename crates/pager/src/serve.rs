//! `forkd-pager serve`: a page server by itself, for VMMs that ask for their memory page by page.

mod control;
mod forks;
mod options;

use crate::pages::records;
use crate::stack::Stack;
use crate::template::StackTemplate;
use crate::{ANOTHER_SERVES, file, listen};
use forkd_page_server::{ArrivingTemplate, MemoryTemplate, PageServer, ServerOptions, Template};
use forks::Forks;
use options::{Asked, Options, USAGE};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs::File;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Standard input may bring nothing for this long.
const STALL: Duration = Duration::from_secs(60);

/// Runs until it has been told to drain and the last fork has ended.
pub fn main(arguments: &[String]) -> ExitCode {
    let options = match Options::parse(arguments) {
        Ok(Asked::Help) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Serve(options)) => options,
        Err(reason) => {
            eprintln!("forkd-pager serve: {reason}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("forkd-pager serve: another one serves {}", options.socket_dir.display());
            ExitCode::from(ANOTHER_SERVES)
        }
        Err(reason) => {
            eprintln!("forkd-pager serve: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether it was the only one of its directory.
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
    let load = |path| records::load("forkd-pager serve", path, &template.identity(), template.pages());
    let prefetch = options.record.as_deref().and_then(load);
    let forks = Forks::new(server, template, options, prefetch).map_err(describe("making an eventfd".into()))?;
    let forks = Arc::new(forks);
    drain_at_signal(&forks).map_err(describe("awaiting signals".into()))?;
    let path = options.socket_dir.join("control.sock");
    let listener = listen(&path, 0o600).map_err(describe(format!("listening at {}", path.display())))?;
    println!("{}", serde_json::json!({ "control": path }));
    control::serve(&listener, &forks).map_err(describe(format!("serving {}", path.display())))?;
    // Nobody is left who would need it.
    let _ = std::fs::remove_file(&path);
    drop(lock);
    Ok(true)
}

/// A service manager's way to ask for what `drain` asks for. Another signal does not hurry it: VMs need their memory.
fn drain_at_signal(forks: &Arc<Forks>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let forks = forks.clone();
    let drain = move || signals.forever().for_each(|_| forks.draining.ring());
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
        let layer = file::read(&mut input, &name).map_err(|error| format!("{}: {error}", path.display()))?;
        layers.push(Arc::new(layer));
        names.push(name);
    }
    let mem_bytes = layers.first().map_or(0, |layer| layer.mem_bytes);
    let stack = Stack::new(mem_bytes, layers).map_err(|error| error.to_string())?;
    let template = StackTemplate::new(Arc::new(stack), names.join("+"));
    Ok(Arc::new(
        template.map_err(|error| format!("looking at the layers: {error}"))?,
    ))
}
