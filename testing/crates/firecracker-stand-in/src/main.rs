//! A stand-in for Firecracker, for tests on hosts where KVM runs no guests.
//!
//! It answers the requests of Firecracker's API in Firecracker's own way: unknown fields, wrong orders and wrong states are
//! refused with the same shape of error. Guest memory is really mapped, threads write to it while the VM runs, snapshots
//! are real files, and the vsock socket leads to a real guest agent that runs as a process of the host. There is no
//! processor: no kernel is ever executed. `stand-in.json` beside the program says which version it is to be.

mod agent;
mod answer;
mod api;
mod arguments;
mod config;
mod extensions;
mod filters;
mod http;
mod memory;
mod schema;
mod snapshot;
mod vm;
mod vmstate;
mod vsock;

use answer::Answer;
use arguments::Arguments;
use config::{Config, Fault};
use filters::Moment;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};
use std::thread;

/// A request on its way to the thread that has the VM, and where the answer goes.
type Asked = (http::Request, Sender<Answer>);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::read()?;
    let Some(arguments) = Arguments::parse(std::env::args().skip(1), &config)? else {
        return Ok(());
    };
    if config.fault == Some(Fault::ExitEarly) {
        return Err("Firecracker panicked: the stand-in was told to end early".into());
    }
    if config.fault == Some(Fault::NeverListen) {
        loop {
            thread::park();
        }
    }
    let listener = UnixListener::bind(&arguments.api_sock)
        .map_err(|error| format!("Failed to open the API socket at: {}: {error}", arguments.api_sock))?;
    let (sender, requests) = mpsc::channel::<Asked>();
    let hangs = config.fault == Some(Fault::NeverAnswer);
    let filters = config.filters;
    thread::spawn(move || {
        filters::install(filters, Moment::Api);
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            thread::spawn(move || {
                if hangs {
                    hold(&stream)
                } else {
                    converse(stream, &sender)
                }
            });
        }
    });
    // A single thread handles all requests, as in Firecracker. The guest's processes end with it.
    let mut vmm = api::Vmm::new(config, arguments);
    for (request, reply) in requests {
        let answer = vmm.handle(&request);
        let ends = answer.ends.clone();
        // The caller may have disconnected.
        let _ = reply.send(answer);
        if let Some(why) = ends {
            // The answer is to arrive before the end of the process.
            thread::sleep(std::time::Duration::from_millis(50));
            return Err(why.into());
        }
    }
    Ok(())
}

/// A connection that nobody ever answers.
fn hold(_stream: &UnixStream) {
    loop {
        thread::park();
    }
}

fn converse(stream: UnixStream, requests: &Sender<Asked>) {
    let Ok(mut out) = stream.try_clone() else { return };
    let mut reader = http::Reader::new(stream);
    loop {
        let answer = match reader.next() {
            Ok(Some(request)) => {
                let (sender, receiver) = mpsc::channel();
                if requests.send((request, sender)).is_err() {
                    return;
                }
                let Ok(answer) = receiver.recv() else { return };
                answer
            }
            Ok(None) => return,
            Err(why) => Answer::refused(why),
        };
        if out.write_all(&answer.bytes()).is_err() {
            return;
        }
    }
}
