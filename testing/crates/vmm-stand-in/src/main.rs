//! `forkd-vmm-stand-in --socket PATH --regions MIB[,MIB…] [--memory anonymous|huge|FILE] [--keep-no-uffd] [--hang-up]
//! [--register-more] [--watchable]`: maps memory, hands it over to the page server at PATH, then obeys its standard input.
//!
//! `forkd-vmm-stand-in --socket PATH --sandbox NAME --key KEY --dir DIR --does HARM`: the VMM of a sandbox of the pager that takes
//! calls at PATH, with its own sockets in DIR; see `Harm`.
//!
//! `forkd-vmm-stand-in --socket PATH --relay HERE`: hands over the memory of another one, which connects to HERE. It is ready
//! when it listens.

use forkd_vmm_stand_in::guest::{Guest, Options};
use forkd_vmm_stand_in::relay;
use forkd_vmm_stand_in::sandbox::Sandbox;
use std::io::{BufRead, Write};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

/// The memory of a sandbox.
const SANDBOX_MIB: usize = 16;
const READY: &str = "{\"ready\":true}";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("forkd-vmm-stand-in: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let options = Options::parse(std::env::args().skip(1))?;
    let mut out = std::io::stdout();
    let mut say = |text: &str| writeln!(out, "{text}").and_then(|()| out.flush());
    if let Some((from, to)) = options.relay() {
        let listener = UnixListener::bind(from).map_err(|error| format!("{}: {error}", from.display()))?;
        say(READY).map_err(|error| error.to_string())?;
        let _connections = relay::run(&listener, to).map_err(|error| format!("handing memory on: {error}"))?;
        std::io::stdin().lock().lines().for_each(drop);
        return Ok(());
    }
    if let Some((home, harm)) = options.sandbox() {
        let vmm = Sandbox::start(&home, harm, SANDBOX_MIB).map_err(|error| format!("calling the pager: {error}"))?;
        say(READY).map_err(|error| error.to_string())?;
        for line in std::io::stdin().lock().lines() {
            let answer = vmm.obey(&line.map_err(|error| error.to_string())?)?;
            say(&answer.to_string()).map_err(|error| error.to_string())?;
        }
        return Ok(());
    }
    let guest = Guest::start(&options).map_err(|error| format!("handing memory over: {error}"))?;
    say(READY).map_err(|error| error.to_string())?;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| error.to_string())?;
        let answer = guest.obey(&line)?;
        say(&answer.to_string()).map_err(|error| error.to_string())?;
    }
    Ok(())
}
