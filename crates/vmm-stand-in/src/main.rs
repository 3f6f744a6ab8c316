//! `forkd-vmm-stand-in --socket PATH --regions MIB[,MIB…] [--memory anonymous|huge|FILE] [--keep-no-uffd] [--hang-up]
//! [--register-more] [--watchable]`: maps memory, hands it over to the page server at PATH, then obeys its standard input.
//!
//! `forkd-vmm-stand-in --socket PATH --relay HERE`: hands over the memory of another one, which connects to HERE. It is ready
//! when it listens.

use forkd_vmm_stand_in::guest::{Guest, Options};
use forkd_vmm_stand_in::relay;
use std::io::{BufRead, Write};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

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
    let guest = Guest::start(&options).map_err(|error| format!("handing memory over: {error}"))?;
    say(READY).map_err(|error| error.to_string())?;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| error.to_string())?;
        let answer = guest.obey(&line)?;
        say(&answer.to_string()).map_err(|error| error.to_string())?;
    }
    Ok(())
}
