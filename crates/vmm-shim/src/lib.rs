//! Preloaded into an unmodified QEMU. It does two things that only code inside the VMM's process can do: it maps the
//! layer stack as guest memory at the moment when QEMU maps its RAM, and it creates a userfaultfd in QEMU's address space.
//!
//! The lifecycle, in order:
//! 1. The constructor finds `FORKD_SHIM_SOCKET`, `FORKD_SHIM_SANDBOX` and `FORKD_SHIM_MEM_BYTES` in the environment (without
//!    them the library is inert), removes them and `LD_PRELOAD`, and opens an empty memfd as descriptor
//!    [`PLACEHOLDER_FD`]: QEMU is told to use `/proc/self/fd/100` as its memory file.
//! 2. It calls the pager, which answers with the plan: memfds and extents.
//! 3. When QEMU maps the placeholder, [`mmap64`] maps zeros and then the plan there, and hands the userfaultfd over.
//! 4. A thread waits for the pager's end and calls its successor with a new userfaultfd.
//!
//! Any failure ends the VMM with status [`EXIT_STATUS`] and one line on standard error: a VM with wrong memory must not run.

mod call;

use call::Pager;
use forkd_linux_sys::memfd;
use forkd_protocol::PAGE_SIZE;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, OnceLock};

/// The descriptor under which QEMU finds its memory file.
pub const PLACEHOLDER_FD: i32 = 100;
/// How the VMM exits when the shim cannot do its work.
pub const EXIT_STATUS: i32 = 97;

struct Shim {
    sandbox: String,
    socket: String,
    mem_bytes: u64,
    placeholder_inode: (u64, u64),
    /// The call to the pager whose plan has not been mapped yet.
    waiting: Mutex<Option<Pager>>,
}

static SHIM: OnceLock<Shim> = OnceLock::new();

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = construct;

extern "C" fn construct() {
    let Some((sandbox, socket, mem_bytes)) = environment() else {
        return;
    };
    let shim = prepare(sandbox, socket, mem_bytes).unwrap_or_else(|error| give_up(&error));
    if SHIM.set(shim).is_err() {
        give_up("loaded twice");
    }
}

fn environment() -> Option<(String, String, u64)> {
    let sandbox = std::env::var("FORKD_SHIM_SANDBOX").ok()?;
    let socket = std::env::var("FORKD_SHIM_SOCKET").ok()?;
    let mem_bytes = std::env::var("FORKD_SHIM_MEM_BYTES").ok()?.parse().ok()?;
    for name in [
        "LD_PRELOAD",
        "FORKD_SHIM_SANDBOX",
        "FORKD_SHIM_SOCKET",
        "FORKD_SHIM_MEM_BYTES",
    ] {
        // SAFETY: a constructor runs before the program has a second thread.
        unsafe { std::env::remove_var(name) };
    }
    Some((sandbox, socket, mem_bytes))
}

fn prepare(sandbox: String, socket: String, mem_bytes: u64) -> Result<Shim, String> {
    let placeholder =
        memfd::create(c"forkd-ram", mem_bytes).map_err(|error| format!("making the memory file: {error}"))?;
    let inode = identity(&placeholder).map_err(|error| format!("looking at the memory file: {error}"))?;
    // SAFETY: duplicates an owned descriptor to a number that nothing uses this early in the process.
    if unsafe { libc::dup3(placeholder.as_raw_fd(), PLACEHOLDER_FD, libc::O_CLOEXEC) } < 0 {
        return Err(format!(
            "duplicating the memory file: {}",
            std::io::Error::last_os_error()
        ));
    }
    let pager = Pager::call(&socket, &sandbox, false)?;
    if pager.mem_bytes() != mem_bytes {
        return Err(format!(
            "the pager plans {} bytes of memory for {sandbox}, the VM has {mem_bytes}",
            pager.mem_bytes()
        ));
    }
    Ok(Shim {
        sandbox,
        socket,
        mem_bytes,
        placeholder_inode: inode,
        waiting: Mutex::new(Some(pager)),
    })
}

fn identity(file: &File) -> std::io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

fn give_up(reason: &str) -> ! {
    eprintln!("forkd-shim: {reason}");
    // SAFETY: ends the process at once; no destructor of a half-started QEMU runs.
    unsafe { libc::_exit(EXIT_STATUS) }
}

/// What QEMU and its libraries call instead of libc's `mmap64`.
///
/// # Safety
/// As for `mmap`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    address: *mut libc::c_void,
    length: usize,
    protection: i32,
    flags: i32,
    fd: i32,
    offset: i64,
) -> *mut libc::c_void {
    if let Some(shim) = SHIM
        .get()
        .filter(|shim| fd >= 0 && length as u64 == shim.mem_bytes && shim.is_placeholder(fd))
    {
        // SAFETY: QEMU maps its RAM here and now, so that the range is its own and not in use.
        return unsafe { shim.map_ram(address, flags) };
    }
    // SAFETY: passed on as it came.
    unsafe { raw_mmap(address, length, protection, flags, fd, offset) }
}

/// The same under its other name, which newer builds import.
///
/// # Safety
/// As for `mmap`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    address: *mut libc::c_void,
    length: usize,
    protection: i32,
    flags: i32,
    fd: i32,
    offset: i64,
) -> *mut libc::c_void {
    // SAFETY: passed on as it came.
    unsafe { mmap64(address, length, protection, flags, fd, offset) }
}

/// # Safety
/// As for `mmap`.
unsafe fn raw_mmap(
    address: *mut libc::c_void,
    length: usize,
    protection: i32,
    flags: i32,
    fd: i32,
    offset: i64,
) -> *mut libc::c_void {
    // SAFETY: the caller's arguments, unchanged. On failure the wrapper has set errno and returned −1, as mmap does.
    unsafe { libc::syscall(libc::SYS_mmap, address, length, protection, flags, fd, offset) as *mut libc::c_void }
}

impl Shim {
    fn is_placeholder(&self, fd: i32) -> bool {
        // SAFETY: all zeros is a valid stat to be overwritten.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: fstat fills in a live struct.
        unsafe { libc::fstat(fd, &mut stat) == 0 && (stat.st_dev, stat.st_ino) == self.placeholder_inode }
    }

    /// # Safety
    /// With `MAP_FIXED` in `flags`, the range must be the caller's own and unused.
    unsafe fn map_ram(&'static self, address: *mut libc::c_void, flags: i32) -> *mut libc::c_void {
        let Some(pager) = self.waiting.lock().expect("no panic while held").take() else {
            give_up("the memory was mapped twice");
        };
        let fixed = flags & libc::MAP_FIXED;
        let zeros = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: passed on from the caller.
        let base = unsafe { raw_mmap(address, self.mem_bytes as usize, access, zeros, -1, 0) };
        if base == libc::MAP_FAILED {
            return base;
        }
        if let Err(error) = self.map_layers(&pager, base as u64) {
            give_up(&error);
        }
        self.hand_over(pager, base as u64);
        base
    }

    fn map_layers(&self, pager: &Pager, base: u64) -> Result<(), String> {
        for extent in pager.extents() {
            let file = pager.layer(extent.fd)?;
            let (start, len) = (extent.guest_page * PAGE_SIZE, extent.pages * PAGE_SIZE);
            if start.checked_add(len).is_none_or(|end| end > self.mem_bytes) {
                return Err(format!(
                    "an extent of {} pages at page {} is outside of memory",
                    extent.pages, extent.guest_page
                ));
            }
            // SAFETY: inside the range that was mapped a moment ago and that QEMU has not been given yet.
            unsafe { memfd::map_private_over(base + start, len, file.as_fd(), extent.file_page * PAGE_SIZE) }
                .map_err(|error| format!("mapping {} pages at page {}: {error}", extent.pages, extent.guest_page))?;
        }
        Ok(())
    }

    /// Gives the pager the userfaultfd, and watches for the pager's end from a thread that takes no signal of QEMU's.
    fn hand_over(&'static self, pager: Pager, base: u64) {
        if let Err(error) = pager.hand_over(base, self.mem_bytes) {
            give_up(&error);
        }
        let spawned = with_signals_blocked(|| {
            std::thread::Builder::new()
                .name("forkd-shim".into())
                .spawn(move || self.follow(pager, base))
        });
        if let Err(error) = spawned {
            give_up(&format!("starting a thread: {error}"));
        }
    }

    /// For as long as the VMM lives: when the pager ends, calls the next one.
    fn follow(&self, mut pager: Pager, base: u64) {
        loop {
            pager.wait_for_end();
            drop(pager);
            pager = self.call_again(base);
        }
    }

    fn call_again(&self, base: u64) -> Pager {
        loop {
            let attempt = Pager::call(&self.socket, &self.sandbox, true)
                .and_then(|pager| pager.hand_over(base, self.mem_bytes).map(|()| pager));
            match attempt {
                Ok(pager) => return pager,
                // Nothing tells that a pager has been started; until then the VM runs on without one.
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(100)),
            }
        }
    }
}

/// Runs `action` with all signals blocked, which a thread made by it inherits.
fn with_signals_blocked<T>(action: impl FnOnce() -> T) -> T {
    // SAFETY: both sets are filled in by the calls before they are read.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let result = action();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        result
    }
}
