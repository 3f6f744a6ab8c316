//! `forkd-vmm-stand-in --socket PATH --regions MIB[,MIB…] [--memory anonymous|huge|FILE] [--keep-no-uffd] [--hang-up]
//! [--register-more] [--watchable]`: maps memory, hands it over to the page server at PATH, then obeys its standard input.

use forkd_vmm_stand_in::guest::{Guest, Options};
use std::io::{BufRead, Write};
use std::process::ExitCode;

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
    let guest = Guest::start(&options).map_err(|error| format!("handing memory over: {error}"))?;
    let mut out = std::io::stdout();
    let mut say = |text: &str| writeln!(out, "{text}").and_then(|()| out.flush());
    say("{\"ready\":true}").map_err(|error| error.to_string())?;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| error.to_string())?;
        let answer = guest.obey(&line)?;
        say(&answer.to_string()).map_err(|error| error.to_string())?;
    }
    Ok(())
}
