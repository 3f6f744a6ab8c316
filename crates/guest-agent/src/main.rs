//! forkd-agent: PID 1 of a forkd guest. See README.md.

mod agent;
mod boot;
mod channel;
mod clock;
mod command;
mod config;
mod crng;
mod error;
mod eval;
mod freezer;
mod generation_page;
mod http;
mod identity;
mod link;
mod port;
mod reaper;
mod refresh;
mod root_files;
mod sys;
mod vsock;
mod watch;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use agent::Agent;
use link::Link;
use reaper::Reaper;
use tokio::net::UnixListener;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--socket", path] => on_socket(path.into()),
        ["--version"] => {
            println!("forkd-agent {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        _ if std::process::id() == 1 => as_init(),
        _ => Err("usage: forkd-agent --socket PATH (without arguments it is a guest's PID 1)".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // When PID 1 ends, the kernel panics. This line says why.
            boot::say(&format!("forkd-agent: {error}"));
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<(), Box<dyn Error>>;

fn as_init() -> Outcome {
    boot::run()?;
    let machine = refresh::prepare();
    runtime()?.block_on(async {
        let agent = start(Some(machine));
        let server = |stream| http::serve(agent.clone(), stream);
        match link::find().await? {
            Link::Port(path) => {
                let (mut reader, mut writer) = port::open(&path)?;
                loop {
                    channel::serve(&mut reader, &mut writer, server).await;
                }
            }
            Link::Vsock(listener) => loop {
                // A snapshot cuts a connection off on both sides: the next one comes by itself.
                let (mut reader, mut writer) = vsock::accept(&listener).await?;
                channel::serve(&mut reader, &mut writer, server).await;
            },
        }
    })
}

/// The same service on a socket of a host, for tests: one connection at a time, no duty of a PID 1.
fn on_socket(path: PathBuf) -> Outcome {
    runtime()?.block_on(async {
        let agent = start(None);
        let listener = UnixListener::bind(&path)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let (mut reader, mut writer) = stream.into_split();
            let server = |stream| http::serve(agent.clone(), stream);
            channel::serve(&mut reader, &mut writer, server).await;
        }
    })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .build()
}

fn start(machine: Option<agent::Machine>) -> Arc<Agent> {
    let reaper = Reaper::default();
    tokio::spawn(reaper.clone().run());
    Arc::new(Agent::new(machine, reaper))
}
