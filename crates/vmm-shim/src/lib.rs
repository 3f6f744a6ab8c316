//! Preloaded into an unmodified QEMU. The library does what only code inside the VMM's process can do: it maps the layer
//! stack as guest memory at the moment when QEMU maps its RAM, makes the guest's random number generator this VM's own, creates
//! a userfaultfd in QEMU's address space, and conducts the pauses of live branches.
//!
//! The lifecycle, in order:
//! 1. The constructor finds `FORKD_SHIM_SOCKET`, `FORKD_SHIM_SANDBOX`, `FORKD_SHIM_KEY` and `FORKD_SHIM_MEM_BYTES` in the
//!    environment (without them the library is inert), removes them and `LD_PRELOAD`, and finds an empty memfd as descriptor
//!    [`PLACEHOLDER_FD`]: QEMU is told to use `/proc/self/fd/100` as its memory file. Where the process may not make a
//!    userfaultfd it was left `/dev/userfaultfd`, as the descriptor in `FORKD_SHIM_UFFD`.
//! 2. It calls the pager, which answers with the plan: memfds and extents.
//! 3. When QEMU maps the placeholder, [`mmap64`] maps zeros and then the plan there, makes the guest's random number
//!    generator this VM's own ([`refresh`]), and hands the userfaultfd over.
//! 4. A thread waits for the pager's end and calls its successor with a new userfaultfd. With `FORKD_SHIM_WINDOW` in the
//!    environment, the thread also begins the pauses that the pager orders ([`window`]).
//!
//! With `FORKD_SHIM_WAITS` in the environment the VMM is started before its VM is known. QEMU finds zeros as its memory and
//! waits. When the pager answers, a thread maps the plan in place of the zeros, refreshes it, hands the userfaultfd over and has
//! QEMU load the device state and run. A pager that ends before that ends the VMM.
//! - With `FORKD_SHIM_WINDOW`, QEMU is started stopped, and the shim loads the state in QEMU's main loop. If the pager gives no
//!   name, it does all but refresh memory and run the VM, until the pager gives one.
//! - Without it, QEMU is told to load its device state from descriptor [`INCOMING_FD`], a pipe of the shim's.
//!
//! Any failure ends the VMM with status [`EXIT_STATUS`] and one line on standard error: a VM with wrong memory must not run.

mod call;
mod refresh;
mod window;

use call::{Call, Pager};
use forkd_linux_sys::memfd;
use forkd_protocol::{PAGE_SIZE, ShimWants};
use std::io::{PipeWriter, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, OnceLock};
use window::Functions;

/// The descriptor under which QEMU finds its memory file.
pub const PLACEHOLDER_FD: i32 = 100;
/// The descriptor from which a VMM that waits loads its device state.
pub const INCOMING_FD: i32 = 101;
/// How the VMM exits when the shim cannot do its work.
pub const EXIT_STATUS: i32 = 97;

struct Shim {
    socket: String,
    mem_bytes: u64,
    placeholder_inode: (u64, u64),
    /// How to set up the memory once QEMU maps it.
    start: Mutex<Option<Start>>,
    /// Name under which the pager knows the VMM.
    name: Mutex<String>,
    /// Key that proves the identity of the VMM to the pager.
    key: String,
    /// Gives out userfaultfds, to a process that has no right of its own to one.
    device: Option<OwnedFd>,
    /// QEMU's functions, with which the shim conducts pause windows itself.
    qemu: Option<Functions>,
}

/// How the VMM gets its memory.
enum Start {
    /// The plan is here.
    Planned(Box<Pager>),
    /// The plan comes later, and the device state with it, which goes into the pipe. Without a pipe, the shim loads it.
    Waiting(Call, Option<PipeWriter>),
}

static SHIM: OnceLock<Shim> = OnceLock::new();

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = construct;

extern "C" fn construct() {
    let Some(environment) = Environment::take() else {
        return;
    };
    let shim = prepare(environment).unwrap_or_else(|error| give_up(&error));
    if SHIM.set(shim).is_err() {
        give_up("loaded twice");
    }
}

/// Environment that the VMM was started with.
struct Environment {
    name: String,
    key: String,
    socket: String,
    mem_bytes: u64,
    device: Option<i32>,
    waits: bool,
    window: bool,
}

impl Environment {
    /// Reads it, and removes it together with `LD_PRELOAD`. `None` in a process that is no VMM of ours.
    fn take() -> Option<Environment> {
        let environment = Environment {
            name: std::env::var("FORKD_SHIM_SANDBOX").ok()?,
            key: std::env::var("FORKD_SHIM_KEY").ok()?,
            socket: std::env::var("FORKD_SHIM_SOCKET").ok()?,
            mem_bytes: std::env::var("FORKD_SHIM_MEM_BYTES").ok()?.parse().ok()?,
            device: std::env::var("FORKD_SHIM_UFFD").ok().and_then(|fd| fd.parse().ok()),
            waits: std::env::var_os("FORKD_SHIM_WAITS").is_some(),
            window: std::env::var_os("FORKD_SHIM_WINDOW").is_some(),
        };
        for name in [
            "LD_PRELOAD",
            "FORKD_SHIM_SANDBOX",
            "FORKD_SHIM_KEY",
            "FORKD_SHIM_UFFD",
            "FORKD_SHIM_SOCKET",
            "FORKD_SHIM_MEM_BYTES",
            "FORKD_SHIM_WAITS",
            "FORKD_SHIM_WINDOW",
        ] {
            // SAFETY: a constructor runs before the program has a second thread.
            unsafe { std::env::remove_var(name) };
        }
        Some(environment)
    }
}

fn prepare(environment: Environment) -> Result<Shim, String> {
    let Environment {
        name,
        key,
        socket,
        mem_bytes,
        device,
        waits,
        window,
    } = environment;
    let inode = identity(PLACEHOLDER_FD).map_err(|error| format!("looking at the memory file: {error}"))?;
    // SAFETY: the process that started the VMM left it this descriptor, which nothing else here knows.
    let device = device.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let qemu = window.then(Functions::find).flatten();
    let start = if waits {
        if window && qemu.is_none() {
            return Err("this QEMU does not export its functions".into());
        }
        let incoming = if window { None } else { Some(incoming_pipe()?) };
        Start::Waiting(Call::dial(&socket, &name, &key, ShimWants::Wake)?, incoming)
    } else {
        let pager = Call::dial(&socket, &name, &key, ShimWants::Plan)?.receive()?;
        check_size(&pager, mem_bytes)?;
        Start::Planned(Box::new(pager))
    };
    Ok(Shim {
        socket,
        mem_bytes,
        placeholder_inode: inode,
        start: Mutex::new(Some(start)),
        name: Mutex::new(name),
        key,
        device,
        qemu,
    })
}

/// The pipe from which QEMU loads its device state.
fn incoming_pipe() -> Result<PipeWriter, String> {
    let (read, write) = std::io::pipe().map_err(|error| format!("making a pipe: {error}"))?;
    duplicate(read.as_fd(), INCOMING_FD)?;
    Ok(write)
}

/// Makes `fd` known under a number that the VMM's command line names.
fn duplicate(fd: BorrowedFd<'_>, number: i32) -> Result<(), String> {
    // SAFETY: duplicates an owned descriptor to a number that nothing uses this early in the process.
    if unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) } < 0 {
        let error = std::io::Error::last_os_error();
        return Err(format!("making descriptor {number}: {error}"));
    }
    Ok(())
}

fn check_size(pager: &Pager, mem_bytes: u64) -> Result<(), String> {
    if pager.mem_bytes() != mem_bytes {
        return Err(format!(
            "the pager plans {} bytes of memory, the VM has {mem_bytes}",
            pager.mem_bytes()
        ));
    }
    Ok(())
}

/// Identity of the file of a descriptor.
fn identity(fd: i32) -> std::io::Result<(u64, u64)> {
    // SAFETY: all zeros is a valid stat to be overwritten.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: fstat fills in a live struct.
    if unsafe { libc::fstat(fd, &mut stat) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok((stat.st_dev, stat.st_ino))
}

fn give_up(reason: &str) -> ! {
    eprintln!("forkd-shim: {reason}");
    // SAFETY: ends the process at once; no destructor of a half-started QEMU runs.
    unsafe { libc::_exit(EXIT_STATUS) }
}

/// Replaces libc's `mmap64` for QEMU and its libraries.
///
/// # Safety
/// The same as for `mmap`.
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
/// The same as for `mmap`.
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
/// The same as for `mmap`.
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
        identity(fd).is_ok_and(|inode| inode == self.placeholder_inode)
    }

    /// # Safety
    /// With `MAP_FIXED` in `flags`, the range must be the caller's own and unused.
    unsafe fn map_ram(&'static self, address: *mut libc::c_void, flags: i32) -> *mut libc::c_void {
        let Some(start) = self.start.lock().expect("no panic while held").take() else {
            give_up("the memory was mapped twice");
        };
        let fixed = flags & libc::MAP_FIXED;
        let zeros = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: passed on from the caller.
        let mapped = unsafe { raw_mmap(address, self.mem_bytes as usize, access, zeros, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return mapped;
        }
        let base = mapped as u64;
        match start {
            Start::Planned(mut pager) => {
                let filled = self.fill(&mut pager, base);
                filled.unwrap_or_else(|error| give_up(&error));
                spawn(move || self.follow(*pager, base));
            }
            Start::Waiting(call, incoming) => spawn(move || {
                let pager = self.wake(call, incoming, base).unwrap_or_else(|error| give_up(&error));
                self.follow(pager, base);
            }),
        }
        mapped
    }

    /// Waits for the VM that this VMM is to run, and lets it run.
    fn wake(&self, call: Call, incoming: Option<PipeWriter>, base: u64) -> Result<Pager, String> {
        let mut pager = call.receive()?;
        check_size(&pager, self.mem_bytes)?;
        match incoming {
            Some(mut incoming) => {
                self.set_name(&pager);
                self.fill(&mut pager, base)?;
                self.exclude_from_dumps(base)?;
                incoming
                    .write_all(pager.device_state())
                    .map_err(|error| format!("handing QEMU the device state: {error}"))?;
            }
            None => self.load(&mut pager, base)?,
        }
        Ok(pager)
    }

    /// Loads the VM of a QEMU that was started stopped, and runs it once it has a name.
    fn load(&self, pager: &mut Pager, base: u64) -> Result<(), String> {
        // QEMU has written its firmware's tables there.
        // SAFETY: no VM has run in guest memory, which was mapped at `base`.
        unsafe { memfd::forget_private(base, self.mem_bytes) }.map_err(|error| format!("emptying memory: {error}"))?;
        self.map_layers(pager, base)?;
        self.exclude_from_dumps(base)?;
        let is_ahead = pager.name().is_empty();
        if !is_ahead {
            self.refresh(pager, base)?;
        }
        self.hand_over(pager, base)?;
        pager.window()?.load(pager.device_state(), !is_ahead)?;
        if is_ahead {
            pager.window()?.wait_until_loaded()?;
            pager.await_run()?;
            self.refresh(pager, base)?;
            pager.window()?.run();
        }
        self.set_name(pager);
        Ok(())
    }

    fn set_name(&self, pager: &Pager) {
        *self.name.lock().expect("no panic while held") = pager.name().into();
    }

    fn exclude_from_dumps(&self, base: u64) -> Result<(), String> {
        memfd::exclude_from_dumps(base, self.mem_bytes).map_err(|error| format!("advising on memory: {error}"))
    }

    /// Maps the layers, makes what must differ from the siblings' memory this VM's own, and gives the pager the userfaultfd.
    fn fill(&self, pager: &mut Pager, base: u64) -> Result<(), String> {
        self.map_layers(pager, base)?;
        self.refresh(pager, base)?;
        self.hand_over(pager, base)
    }

    fn refresh(&self, pager: &Pager, base: u64) -> Result<(), String> {
        // SAFETY: guest memory was mapped at `base`, and the VM does not run before this has returned.
        unsafe { refresh::apply(pager.refreshes(), base, self.mem_bytes) }
    }

    fn hand_over(&self, pager: &mut Pager, base: u64) -> Result<(), String> {
        pager.hand_over(base, self.mem_bytes, self.device.as_ref().map(AsFd::as_fd), self.qemu)
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

    /// Follows the pager as long as the VMM lives. When the pager ends, calls the next one.
    fn follow(&self, mut pager: Pager, base: u64) -> ! {
        loop {
            pager.serve_until_end();
            drop(pager);
            pager = self.call_again(base);
        }
    }

    fn call_again(&self, base: u64) -> Pager {
        loop {
            let name = self.name.lock().expect("no panic while held").clone();
            let attempt = Call::dial(&self.socket, &name, &self.key, ShimWants::Nothing)
                .and_then(Call::receive)
                .and_then(|mut pager| self.hand_over(&mut pager, base).map(|()| pager));
            match attempt {
                Ok(pager) => return pager,
                // Nothing tells that a pager has been started; until then the VM runs on without one.
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(100)),
            }
        }
    }
}

/// Starts a thread that takes no signal of QEMU's. It ends with the process.
fn spawn(body: impl FnOnce() + Send + 'static) {
    let spawned = with_signals_blocked(|| std::thread::Builder::new().name("forkd-shim".into()).spawn(body));
    if let Err(error) = spawned {
        give_up(&format!("starting a thread: {error}"));
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
