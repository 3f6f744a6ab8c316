//! The log of this process: a file, or standard error.
//!
//! Programs that are not trusted can cause lines, since their failed calls are logged. So each message is one line, each
//! subject has a limited number of lines per minute, and the file has a limit: the file before it is kept beside it, and no
//! other.

use crate::text::plain;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

/// Lines about one subject within [`MINUTE`]. Further lines are only counted.
const LINES_MAX: u32 = 20;
const MINUTE: Duration = Duration::from_secs(60);
/// Subjects that are counted. With more of them, all counts begin anew.
const SUBJECTS_MAX: usize = 1024;
/// A longer log is put aside, and replaces the one that was put aside before.
const FILE_BYTES_MAX: u64 = 8 << 20;

static LOG: LazyLock<Mutex<Log>> = LazyLock::new(|| Mutex::new(Log::new("forkd", FILE_BYTES_MAX)));

/// Appends the log of `program`, and the messages of panics, to the file at `path` from now on.
pub fn to_file(program: &'static str, path: &Path) -> std::io::Result<()> {
    let mut log = lock();
    log.program = program;
    log.open(path)?;
    drop(log);
    std::panic::set_hook(Box::new(|panic| line("panic", &panic.to_string())));
    Ok(())
}

/// Writes the log of `program` to standard error from now on.
pub fn to_stderr(program: &'static str) {
    lock().program = program;
}

/// Writes a line about `subject`: the program, or the part of this one, that could cause the line again and again.
pub fn line(subject: &str, message: &str) {
    lock().line(subject, message, Instant::now());
}

fn lock() -> std::sync::MutexGuard<'static, Log> {
    // A panic leaves at worst a wrong count behind.
    LOG.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

struct Log {
    /// Each line begins with this name.
    program: &'static str,
    file: Option<(File, PathBuf)>,
    bytes: u64,
    bytes_max: u64,
    subjects: HashMap<String, Count>,
}

/// The lines about a subject since its minute began.
struct Count {
    since: Instant,
    lines: u32,
}

impl Log {
    fn new(program: &'static str, bytes_max: u64) -> Log {
        Log {
            program,
            file: None,
            bytes: 0,
            bytes_max,
            subjects: HashMap::new(),
        }
    }

    fn open(&mut self, path: &Path) -> std::io::Result<()> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        self.bytes = file.metadata()?.len();
        self.file = Some((file, path.into()));
        Ok(())
    }

    fn line(&mut self, subject: &str, message: &str, now: Instant) {
        let subject = plain(subject);
        if self.subjects.len() >= SUBJECTS_MAX && !self.subjects.contains_key(&subject) {
            self.subjects.clear();
        }
        let count = self
            .subjects
            .entry(subject.clone())
            .or_insert(Count { since: now, lines: 0 });
        let mut left_out = 0;
        if now.duration_since(count.since) >= MINUTE {
            left_out = count.lines.saturating_sub(LINES_MAX);
            *count = Count { since: now, lines: 0 };
        }
        count.lines = count.lines.saturating_add(1);
        let lines = count.lines;
        if left_out > 0 {
            self.write(&format!("{subject}: {left_out} more lines were left out"));
        }
        if lines <= LINES_MAX {
            self.write(&format!("{subject}: {}", plain(message)));
        }
        if lines == LINES_MAX {
            self.write(&format!("{subject}: further lines of this minute are left out"));
        }
    }

    fn write(&mut self, text: &str) {
        let line = format!("{}: {text}\n", self.program);
        if self.bytes + line.len() as u64 > self.bytes_max {
            self.put_aside();
        }
        self.bytes += line.len() as u64;
        // A log that cannot be written leaves no place to report it.
        let _ = match &mut self.file {
            Some((file, _)) => file.write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }

    fn put_aside(&mut self) {
        let Some((_, path)) = self.file.take() else { return };
        let aside = path.with_extension("log.1");
        // If this fails, the log ends here: it must not fill the disk.
        let reopened = std::fs::rename(&path, &aside).and_then(|()| self.open(&path));
        if reopened.is_ok() {
            self.write(&format!("the lines before this one are in {}", aside.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn opened(name: &str, bytes_max: u64) -> (Log, Dir) {
        let dir = std::env::temp_dir().join(format!("forkd-log-{name}-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("a directory");
        let mut log = Log::new("daemon", bytes_max);
        log.open(&dir.join("daemon.log")).expect("a log");
        (log, Dir(dir))
    }

    fn read(dir: &Dir, name: &str) -> String {
        std::fs::read_to_string(dir.0.join(name)).expect("a file")
    }

    #[test]
    fn a_message_cannot_forge_a_line() {
        let (mut log, dir) = opened("forge", FILE_BYTES_MAX);
        log.line("process 7", "x\ndaemon: all is well", Instant::now());
        let text = read(&dir, "daemon.log");
        assert_eq!(text, "daemon: process 7: x\\u{a}daemon: all is well\n");
    }

    #[test]
    fn one_subject_has_so_many_lines_a_minute_and_others_are_not_kept_out() {
        let (mut log, dir) = opened("rate", FILE_BYTES_MAX);
        let start = Instant::now();
        for _ in 0..10 * LINES_MAX {
            log.line("a", "again", start);
        }
        log.line("b", "once", start);
        log.line("a", "later", start + MINUTE);
        let text = read(&dir, "daemon.log");
        assert_eq!(text.matches("a: again").count(), LINES_MAX as usize);
        assert_eq!(text.matches("b: once").count(), 1);
        let left_out = format!("a: {} more lines were left out", 9 * LINES_MAX);
        assert!(text.contains(&left_out) && text.ends_with("a: later\n"), "{text}");
    }

    #[test]
    fn many_subjects_fill_two_files_and_no_more() {
        const BYTES_MAX: u64 = 10_000;
        let (mut log, dir) = opened("size", BYTES_MAX);
        for index in 0..5000 {
            log.line(&format!("process {index}"), &"x".repeat(300), Instant::now());
        }
        let files = std::fs::read_dir(&dir.0).expect("a directory").flatten();
        let sizes: Vec<u64> = files.map(|file| file.metadata().expect("a file").len()).collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|size| *size <= BYTES_MAX), "{sizes:?}");
        assert!(read(&dir, "daemon.log").contains("process 4999"));
        assert!(read(&dir, "daemon.log").starts_with("daemon: the lines before this one are in "));
    }
}
