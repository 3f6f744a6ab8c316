//! The TypeScript types of this API, for the client in `packages/guest`.

use std::path::Path;
use std::{env, fs, process};

use ts_rs::{Config, TS};

use super::commands::{Gap, SignalRequest, Started};
use super::files::{Entry, Stat};
use super::watch::FileChange;
use super::{Failure, Identified, Pong, Thawed};
use crate::command::session::{Exit, Info};
use crate::refresh::Refresh;
use crate::{clock, command, config, eval, identity};

const FILE: &str = "agent-wire.ts";

/// The JSON that the agent sends.
#[derive(TS)]
#[ts(export_to = "agent-wire.ts")]
#[expect(dead_code, reason = "only its type is of use")]
struct Replies {
    ping: Pong,
    identified: Identified,
    identity: identity::Current,
    refresh: Refresh,
    thawed: Thawed,
    started: Started<'static>,
    command: Info,
    /// An item of the listing.
    commands: Info,
    /// An item of the listing.
    directory: Entry,
    stat: Stat,
    evaluation: eval::Outcome,
    error: Failure,
    exit: Exit,
    gap: Gap,
    change: FileChange,
}

/// The JSON that the agent takes.
#[derive(TS)]
#[ts(export_to = "agent-wire.ts")]
#[expect(dead_code, reason = "only its type is of use")]
struct Requests {
    config: config::Config,
    identity: identity::Request,
    clock: clock::Request,
    command: command::Request,
    signal: SignalRequest,
    pty: command::pty::Size,
    eval: eval::Request,
    interpreter: eval::StartRequest,
}

#[test]
fn the_typescript_types_are_up_to_date() {
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../packages/guest/src")
        .join(FILE);
    let folder = env::temp_dir().join(format!("forkd-agent-types-{}", process::id()));
    let config = Config::new().with_large_int("number").with_out_dir(&folder);
    Replies::export_all(&config).expect("exported");
    Requests::export_all(&config).expect("exported");
    let types = fs::read_to_string(folder.join(FILE)).expect("read");
    fs::remove_dir_all(&folder).expect("removed");
    if fs::read_to_string(&checked_in).ok().as_ref() != Some(&types) {
        fs::write(&checked_in, types).expect("written");
        panic!("{} was out of date and has been written anew.", checked_in.display());
    }
}
