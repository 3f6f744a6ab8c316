//! The control socket: one JSON object per line, in both directions.

use crate::forks::Forks;
use forkd_linux_sys::fds::{self, Wait};
use forkd_protocol::Refresh;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

const LINE_BYTES_MAX: u64 = 4096;
/// While draining, how often to look whether the last fork has ended.
const DRAIN_CHECK: Duration = Duration::from_millis(20);

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
enum Request {
    Fork {
        name: String,
        #[serde(default)]
        populate: bool,
        #[serde(default)]
        refresh: Vec<Refresh>,
    },
    Stats,
    Drain,
}

/// Answers until the server has drained.
pub fn serve(listener: &UnixListener, forks: &Arc<Forks>) -> io::Result<()> {
    loop {
        let draining = forks.is_draining();
        if draining && forks.is_empty() {
            return Ok(());
        }
        let mut waits = vec![Wait::readable(listener)];
        if !draining {
            waits.push(Wait::readable(&forks.draining));
        }
        if !fds::wait(&waits, draining.then_some(DRAIN_CHECK))?[0] {
            continue;
        }
        let Ok((stream, _)) = listener.accept() else {
            // Most likely there are no descriptors left. The connection still waits.
            std::thread::sleep(fds::ACCEPT_RETRY);
            continue;
        };
        let forks = forks.clone();
        // Without a thread for it, the connection is hung up on.
        let _ = std::thread::Builder::new().name("control".into()).spawn(move || {
            // A client that hangs up needs no answer.
            let _ = answer_all(&stream, &forks);
        });
    }
}

fn answer_all(mut stream: &UnixStream, forks: &Arc<Forks>) -> io::Result<()> {
    let mut input = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        (&mut input).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        let answer = match serde_json::from_slice(&line) {
            Ok(request) => answer(request, forks),
            Err(error) => json!({ "ok": false, "error": format!("the request is not understood: {error}") }),
        };
        writeln!(stream, "{answer}")?;
        if line.last() != Some(&b'\n') {
            return Ok(());
        }
    }
}

fn answer(request: Request, forks: &Arc<Forks>) -> Value {
    match request {
        Request::Fork {
            name,
            populate,
            refresh,
        } => match forks.make(&name, populate, &refresh) {
            Ok(path) => json!({ "ok": true, "socket": path }),
            Err(error) => json!({ "ok": false, "error": error }),
        },
        Request::Stats => json!({
            "ok": true,
            "health": forks.server().health(),
            "template": forks.report_template(),
            "draining": forks.is_draining(),
            "total": forks.server().stats(),
            "forks": forks.reports(),
        }),
        Request::Drain => {
            forks.draining.signal();
            json!({ "ok": true })
        }
    }
}
