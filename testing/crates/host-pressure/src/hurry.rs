//! Huge pages as fast as the kernel can make them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage/khugepaged";
/// The kernel's thread looks again at once, also after it found no huge page.
const WANTED: [(&str, &str); 3] = [
    ("scan_sleep_millisecs", "0"),
    ("alloc_sleep_millisecs", "0"),
    ("pages_to_scan", "65536"),
];
/// Another test of this host has long ended within this time.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Has `khugepaged` collapse pages into huge ones without a rest.
pub struct HurriedCollapse {
    before: Vec<(PathBuf, String)>,
    /// Two that change and restore the same settings would leave them changed.
    _alone: File,
}

impl HurriedCollapse {
    /// Fails where the kernel has no huge pages, or where the settings cannot be written.
    pub fn start() -> io::Result<HurriedCollapse> {
        let mut hurried = HurriedCollapse {
            before: Vec::new(),
            _alone: alone()?,
        };
        for (name, value) in WANTED {
            let path = Path::new(SETTINGS).join(name);
            let before = std::fs::read_to_string(&path)?;
            std::fs::write(&path, value)?;
            hurried.before.push((path, before));
        }
        Ok(hurried)
    }
}

impl Drop for HurriedCollapse {
    fn drop(&mut self) {
        for (path, value) in &self.before {
            if let Err(error) = std::fs::write(path, value.trim()) {
                eprintln!("{} could not be set back to {}: {error}", path.display(), value.trim());
            }
        }
    }
}

/// A lock that is held by one process of this host at a time, and by one thread of it.
fn alone() -> io::Result<File> {
    let path = std::env::temp_dir().join("forkd-khugepaged.lock");
    let file = File::options().create(true).append(true).open(path)?;
    let start = Instant::now();
    while file.try_lock().is_err() {
        if start.elapsed() > PATIENCE {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(file)
}
