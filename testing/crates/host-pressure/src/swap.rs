//! Swap space for the time of a test.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

const ZRAM: &str = "/sys/class/zram-control";
const MIB: u64 = 1 << 20;

/// The kinds of swap space that can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapKind {
    /// A file, beside this program: a tmpfs is refused by the kernel.
    File,
    /// The same under a loop device.
    Loop,
    /// Compressed memory.
    Zram,
}

impl SwapKind {
    pub const ALL: [SwapKind; 3] = [SwapKind::File, SwapKind::Loop, SwapKind::Zram];
}

/// Swap space that is turned off again when it is dropped. Any process of the host may be swapped to it meanwhile.
pub struct Swap {
    device: PathBuf,
    /// Files and devices to remove after swapping is turned off, the last one first.
    made: Vec<Made>,
}

enum Made {
    File(PathBuf),
    Loop(PathBuf),
    Zram(String),
    On(PathBuf),
}

impl Swap {
    pub fn on(kind: SwapKind, mib: u64) -> io::Result<Swap> {
        let mut swap = Swap {
            device: PathBuf::new(),
            made: Vec::new(),
        };
        match kind {
            SwapKind::File => swap.device = swap.file(mib)?,
            SwapKind::Loop => {
                let file = swap.file(mib)?;
                let device = PathBuf::from(run("losetup", &[Path::new("--find"), Path::new("--show"), &file])?);
                swap.made.push(Made::Loop(device.clone()));
                swap.device = device;
            }
            SwapKind::Zram => swap.device = swap.zram(mib)?,
        }
        run("mkswap", &[&swap.device])?;
        run("swapon", &[&swap.device])?;
        swap.made.push(Made::On(swap.device.clone()));
        Ok(swap)
    }

    fn file(&mut self, mib: u64) -> io::Result<PathBuf> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("swap-{}-{count}", std::process::id());
        let path = std::env::current_exe()?.with_file_name(name);
        let mut file = File::create(&path)?;
        self.made.push(Made::File(path.clone()));
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        // Holes are refused by the kernel.
        io::copy(&mut io::Read::take(io::repeat(0), mib * MIB), &mut file)?;
        Ok(path)
    }

    fn zram(&mut self, mib: u64) -> io::Result<PathBuf> {
        let number = std::fs::read_to_string(format!("{ZRAM}/hot_add"))?.trim().to_owned();
        self.made.push(Made::Zram(number.clone()));
        std::fs::write(format!("/sys/block/zram{number}/disksize"), (mib * MIB).to_string())?;
        Ok(PathBuf::from(format!("/dev/zram{number}")))
    }
}

impl Made {
    fn take_away(&self) -> io::Result<()> {
        match self {
            Made::File(path) => std::fs::remove_file(path),
            Made::Loop(device) => run("losetup", &[Path::new("--detach"), device]).map(drop),
            Made::Zram(number) => std::fs::write(format!("{ZRAM}/hot_remove"), number),
            Made::On(device) => run("swapoff", &[device]).map(drop),
        }
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        for made in self.made.iter().rev() {
            if let Err(error) = made.take_away() {
                eprintln!("swap space {} could not be taken away: {error}", self.device.display());
            }
        }
    }
}

/// Runs a program of util-linux, which may be out of an ordinary user's path, and returns its first line.
fn run(program: &str, arguments: &[&Path]) -> io::Result<String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).output()?;
    if !output.status.success() {
        let what = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{program}: {}", what.trim())));
    }
    let line = String::from_utf8_lossy(&output.stdout);
    Ok(line.lines().next().unwrap_or_default().to_owned())
}
