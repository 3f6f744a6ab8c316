//! Freezes all programs of users, for a snapshot with `safety: strict`. In a child they continue only after the child has
//! its identity, so no program acts with the names and the clock of a sibling.
//!
//! 1. From now on no new program is started.
//! 2. Programs in the root control group move to a group of their own.
//! 3. All groups below the root are frozen, including those that users made, and the agent waits for them.
//! 4. The controller thaws the source after the instant. A child thaws with its identity.
//!
//! A source that nobody thaws does so by itself after a while. A child never does, because the generation page says that it
//! is a child.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use tokio::sync::watch;

use crate::error::{ApiError, ErrorCode};
use crate::sys;

const ROOT: &str = "/sys/fs/cgroup";
/// The group of programs that were in none.
const COMMANDS: &str = "forkd-commands";
/// A program that is being traced or waits for a device may take its time.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(5);
/// Programs that start others while they are moved are looked for again.
const ROUNDS_MAX: usize = 100;
/// Time after which a frozen source thaws by itself.
const FROZEN_MAX: Duration = Duration::from_secs(20);

pub struct Freezer {
    root: PathBuf,
    /// The groups that were frozen here. Those that a user had frozen before stay so.
    frozen: Mutex<Option<Vec<PathBuf>>>,
    /// Counts the freezes, and whether one is in force.
    state: watch::Sender<(u64, bool)>,
}

impl Default for Freezer {
    fn default() -> Freezer {
        Freezer {
            root: ROOT.into(),
            frozen: Mutex::default(),
            state: watch::Sender::default(),
        }
    }
}

impl Freezer {
    /// Freezes all programs. `is_child` says later whether this machine has become another one.
    pub async fn freeze(self: Arc<Self>, is_child: impl Fn() -> bool + Send + 'static) -> Result<(), ApiError> {
        if self.state.borrow().1 {
            return Err(unavailable("programs are frozen already"));
        }
        self.state
            .send_modify(|(count, frozen)| (*count, *frozen) = (*count + 1, true));
        let turn = self.state.borrow().0;
        let root = self.root.clone();
        let mut groups = Vec::new();
        let work = tokio::task::spawn_blocking(move || {
            let done = freeze_all(&root, &mut groups);
            (groups, done)
        });
        let (groups, done) = work.await.expect("freezing does not panic");
        *self.frozen.lock().expect("no holder panics") = Some(groups);
        if let Err(why) = done {
            self.thaw();
            return Err(unavailable(why));
        }
        tokio::spawn(async move {
            tokio::time::sleep(FROZEN_MAX).await;
            if *self.state.borrow() == (turn, true) && !is_child() {
                self.thaw();
            }
        });
        Ok(())
    }

    /// Thaws everything that was frozen here. Returns true if anything was.
    pub fn thaw(&self) -> bool {
        let Some(groups) = self.frozen.lock().expect("no holder panics").take() else {
            return false;
        };
        for group in &groups {
            // A group that is gone has nothing to thaw.
            let _ = fs::write(group.join("cgroup.freeze"), "0");
        }
        self.state.send_modify(|(_, frozen)| *frozen = false);
        true
    }

    /// Waits until programs may be started.
    pub async fn until_thawed(&self) {
        let mut state = self.state.subscribe();
        // The sender lives as long as this.
        let _ = state.wait_for(|(_, frozen)| !frozen).await;
    }
}

fn unavailable(why: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::NOT_IMPLEMENTED, ErrorCode::FreezerUnavailable, why)
}

/// `groups` are those that were frozen, whether or not all could be.
fn freeze_all(root: &Path, groups: &mut Vec<PathBuf>) -> Result<(), String> {
    let until = Instant::now() + FREEZE_TIMEOUT;
    let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("/proc/self/cgroup: {error}"))?;
    if !own.lines().any(|line| line == "0::/") {
        return Err("the agent is not in the root control group".into());
    }
    let commands = root.join(COMMANDS);
    let made = fs::create_dir(&commands).or_else(|error| match error.kind() {
        ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    });
    made.map_err(|error| format!("making a control group: {error}"))?;
    if !commands.join("cgroup.freeze").exists() {
        return Err("the kernel has no control group freezer".into());
    }
    for _ in 0..ROUNDS_MAX {
        let moved = move_programs(root, &commands).map_err(|error| format!("moving programs: {error}"))?;
        let frozen = freeze_groups(root, groups).map_err(|error| format!("freezing programs: {error}"))?;
        if moved + frozen == 0 {
            return groups.iter().try_for_each(|group| wait_until_frozen(group, until));
        }
    }
    Err("programs are started faster than they can be frozen".into())
}

/// Moves the programs of the root group, but for this one. Returns how many there were.
fn move_programs(root: &Path, to: &Path) -> io::Result<usize> {
    let own = std::process::id();
    let mut moved = 0;
    for pid in fs::read_to_string(root.join("cgroup.procs"))?.lines() {
        // Threads of the kernel, and programs that have ended, have no file.
        let is_program = fs::read_link(format!("/proc/{pid}/exe")).is_ok();
        if is_program && pid.parse() != Ok(own) {
            moved += 1;
            match fs::write(to.join("cgroup.procs"), pid) {
                // The process has ended meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                result => result?,
            }
        }
    }
    Ok(moved)
}

/// Freezes what is not frozen of the groups right below the root: those below them are frozen with them.
fn freeze_groups(root: &Path, groups: &mut Vec<PathBuf>) -> io::Result<usize> {
    let mut frozen = 0;
    for entry in fs::read_dir(root)?.flatten() {
        let (path, switch) = (entry.path(), entry.path().join("cgroup.freeze"));
        match fs::read_to_string(&switch) {
            Ok(state) if state.trim() == "0" => {
                fs::write(&switch, "1")?;
                groups.push(path);
                frozen += 1;
            }
            // Not a group, or one that a user has frozen.
            _ => {}
        }
    }
    Ok(frozen)
}

fn wait_until_frozen(group: &Path, until: Instant) -> Result<(), String> {
    let describe = |error: io::Error| format!("{}: {error}", group.display());
    let events = File::open(group.join("cgroup.events")).map_err(describe)?;
    loop {
        // Reading acknowledges the state, so the poll waits for a later change.
        let mut bytes = [0; 256];
        let count = events.read_at(&mut bytes, 0).map_err(describe)?;
        let text = String::from_utf8_lossy(&bytes[..count]);
        if text.lines().any(|line| line == "frozen 1") {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || !sys::wait_for_change(&events, left).map_err(describe)? {
            return Err(format!(
                "programs did not stand still within {} s",
                FREEZE_TIMEOUT.as_secs()
            ));
        }
    }
}
