//! Records the pagers that have a store open. Several data directories may use one store, one after the other, and a pager outlives
//! its controller. The next pager must not remove files that an earlier one is writing, or has written for running sandboxes.

use crate::error::{Result, Step};
use forkd_layers::digest_of;
use std::fs::{self, File, TryLockError};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait for the lock: a process that checks whether a pager is alive holds it briefly.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(10);

/// The mark of a living pager in its store: a locked file, named by the pager's own directory.
#[derive(Debug)]
pub struct Mark {
    /// Kept open, and thus locked, until the process ends.
    _file: File,
    /// True if no other pager has the store open.
    pub is_alone: bool,
}

/// Marks the store as open by the pager that serves `run_dir`.
pub fn mark(store_dir: &Path, run_dir: &Path) -> Result<Mark> {
    let marks = store_dir.join("pagers");
    fs::create_dir_all(&marks).step(|| format!("making {}", marks.display()))?;
    let run_dir = run_dir
        .canonicalize()
        .step(|| format!("looking for {}", run_dir.display()))?;
    let own = format!(
        "{}.lock",
        digest_of(run_dir.as_os_str().as_bytes()).trim_start_matches("sha256:")
    );
    let file = open(&marks.join(&own))?;
    let began = Instant::now();
    while let Err(error) = file.try_lock() {
        match error {
            TryLockError::WouldBlock if began.elapsed() < LOCK_WAIT => std::thread::sleep(LOCK_POLL),
            error => return Err(error.into()).step(|| format!("locking {}", marks.join(&own).display())),
        }
    }
    let mut is_alone = true;
    for entry in fs::read_dir(&marks)
        .step(|| format!("listing {}", marks.display()))?
        .flatten()
    {
        // The lock of an ended pager is free. It is released again at once.
        is_alone &= entry.file_name().as_bytes() == own.as_bytes() || open(&entry.path())?.try_lock().is_ok();
    }
    Ok(Mark { _file: file, is_alone })
}

fn open(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .step(|| format!("opening {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_knows_whether_another_pager_has_it_open() {
        let dir = std::env::temp_dir().join(format!("forkd-writers-{}", std::process::id()));
        let (first, second) = (dir.join("first"), dir.join("second"));
        fs::create_dir_all(&first).expect("a directory");
        fs::create_dir_all(&second).expect("a directory");
        let store = dir.join("store");
        let one = mark(&store, &first).expect("the first mark");
        assert!(one.is_alone);
        let other = mark(&store, &second).expect("the second mark");
        assert!(!other.is_alone);
        drop(one);
        drop(other);
        assert!(mark(&store, &second).expect("a mark again").is_alone);
        fs::remove_dir_all(&dir).expect("cleaning up");
    }
}
