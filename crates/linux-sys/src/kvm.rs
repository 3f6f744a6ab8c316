//! KVM, reduced to a machine with one processor and one piece of memory.

mod uapi;

pub use uapi::{General, Segment, Special, Table};

use crate::memfd::Mapping;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::offset_of;
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::sync::{Arc, Once};
use uapi::*;

const API_VERSION: i64 = 12;
const CAP_IMMEDIATE_EXIT: u64 = 136;
/// Three pages that Intel's processors may need to run real mode. They must not be memory.
const TSS_ADDRESS: u64 = 0xFFFB_D000;

const EXIT_IO: u32 = 2;
const EXIT_HALTED: u32 = 5;
const EXIT_MEMORY_IO: u32 = 6;
const IO_OUT: u8 = 1;

/// The registers that a guest without interrupts and without a floating-point unit depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Registers {
    pub general: General,
    pub special: Special,
}

/// KVM itself.
#[derive(Debug)]
pub struct Kvm {
    file: File,
}

impl Kvm {
    /// Fails if there is no `/dev/kvm`, if it may not be opened, and if it is too old to be kicked without a race
    /// (before Linux 4.12).
    pub fn open() -> io::Result<Kvm> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/kvm")?;
        let kvm = Kvm { file };
        let version = call(&kvm.file, KVM_GET_API_VERSION, 0)?;
        let can_be_kicked = call(&kvm.file, KVM_CHECK_EXTENSION, CAP_IMMEDIATE_EXIT)? > 0;
        if version != API_VERSION || !can_be_kicked {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("KVM's version is {version}, and can_be_kicked is {can_be_kicked}"),
            ));
        }
        Ok(kvm)
    }

    /// Creates a machine with `memory` at address zero. Panics if that is about 4 GiB or more.
    pub fn create_machine(&self, memory: Arc<Mapping>) -> io::Result<Machine> {
        assert!(
            memory.len() as u64 <= TSS_ADDRESS,
            "memory lies below the pages of real mode"
        );
        let file = owned(call(&self.file, KVM_CREATE_VM, 0)?);
        call(&file, KVM_SET_TSS_ADDR, TSS_ADDRESS)?;
        let region = MemoryRegion {
            slot: 0,
            flags: 0,
            guest_address: 0,
            len: memory.len() as u64,
            host_address: memory.target(0, memory.len()) as u64,
        };
        set(&file, KVM_SET_USER_MEMORY_REGION, &region)?;
        let run_bytes = call(&self.file, KVM_GET_VCPU_MMAP_SIZE, 0)? as usize;
        Ok(Machine {
            file,
            memory,
            run_bytes,
        })
    }
}

/// A virtual machine without processors.
#[derive(Debug)]
pub struct Machine {
    file: File,
    memory: Arc<Mapping>,
    run_bytes: usize,
}

impl Machine {
    /// Creates the only processor, in its state after a reset.
    pub fn create_processor(&self) -> io::Result<Processor> {
        let file = owned(call(&self.file, KVM_CREATE_VCPU, 0)?);
        let page = Mapping::read_write(&file, self.run_bytes)?;
        handle_kicks();
        Ok(Processor {
            file,
            shared: Arc::new(Shared {
                page,
                thread: AtomicI32::new(0),
            }),
            _memory: self.memory.clone(),
        })
    }
}

/// The reason why a processor has stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The guest wrote to a port. The instruction is complete only after the processor has run again.
    Out { port: u16, value: u32 },
    /// The guest wrote to an address without memory. Complete, likewise, only after the processor has run again.
    Store { address: u64, value: u64 },
    /// A thread has kicked the processor. It is between two instructions, all of them complete.
    Kicked,
    /// The guest has halted the processor.
    Halted,
    /// Another of KVM's reasons, with its first word.
    Other { reason: u32, detail: u64 },
}

/// A virtual processor. Different threads may run it, one after another.
#[derive(Debug)]
pub struct Processor {
    file: File,
    shared: Arc<Shared>,
    /// Keeps the memory mapped: the guest writes to it as long as the processor exists.
    _memory: Arc<Mapping>,
}

/// State that a processor shares with its kickers.
#[derive(Debug)]
struct Shared {
    page: Mapping,
    /// The thread that is running the processor, or zero.
    thread: AtomicI32,
}

impl Processor {
    /// Runs the guest until it needs an action from outside.
    pub fn run(&mut self) -> io::Result<Exit> {
        loop {
            // SAFETY: a call without arguments.
            let thread = unsafe { libc::gettid() };
            // Either the kicker sees the thread, or the kernel sees the kick: each writes before it looks.
            self.shared.thread.store(thread, Ordering::SeqCst);
            let result = call(&self.file, KVM_RUN, 0);
            self.shared.thread.store(0, Ordering::SeqCst);
            match result {
                Ok(_) => return Ok(self.exit()),
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Err(_) if self.shared.immediate_exit().swap(0, Ordering::SeqCst) != 0 => return Ok(Exit::Kicked),
                // The signal was unrelated, or a kick came so late that it had been noticed already.
                Err(_) => {}
            }
        }
    }

    /// Decodes the exit that the kernel has written to the shared page.
    fn exit(&self) -> Exit {
        let page = self.shared.page.target(0, size_of::<RunPage>()).cast::<RunPage>();
        // SAFETY: the page holds this structure, and the kernel writes to it only while the processor runs.
        let RunPage {
            exit_reason: reason,
            detail,
            ..
        } = unsafe { page.read() };
        // SAFETY: all variants consist of plain numbers, so any of them may be read.
        let (io, memory_io, first_word) = unsafe { (detail.io, detail.memory_io, detail.first_word) };
        match reason {
            EXIT_IO if io.direction == IO_OUT && io.count == 1 => Exit::Out {
                port: io.port,
                value: number(self.shared.page.bytes(io.data_offset as usize, io.size.into())) as u32,
            },
            EXIT_MEMORY_IO if memory_io.is_write != 0 => Exit::Store {
                address: memory_io.address,
                value: number(&memory_io.data[..memory_io.len as usize]),
            },
            EXIT_HALTED => Exit::Halted,
            _ => Exit::Other {
                reason,
                detail: first_word,
            },
        }
    }

    /// A handle that ends a run from another thread.
    pub fn kick(&self) -> Kick {
        Kick {
            shared: self.shared.clone(),
        }
    }

    pub fn registers(&self) -> io::Result<Registers> {
        let mut registers = Registers::default();
        get(&self.file, KVM_GET_REGS, &mut registers.general)?;
        get(&self.file, KVM_GET_SREGS, &mut registers.special)?;
        Ok(registers)
    }

    pub fn set_registers(&mut self, registers: &Registers) -> io::Result<()> {
        set(&self.file, KVM_SET_SREGS, &registers.special)?;
        set(&self.file, KVM_SET_REGS, &registers.general)
    }
}

impl Shared {
    fn immediate_exit(&self) -> &AtomicU8 {
        let byte = self.page.target(offset_of!(RunPage, immediate_exit), 1);
        // SAFETY: the byte lives as long as the mapping. The kernel only reads it.
        unsafe { AtomicU8::from_ptr(byte) }
    }
}

/// Ends the run of a processor.
#[derive(Debug, Clone)]
pub struct Kick {
    shared: Arc<Shared>,
}

impl Kick {
    /// Makes the current run, or else the next one, return [`Exit::Kicked`].
    pub fn kick(&self) {
        self.shared.immediate_exit().store(1, Ordering::SeqCst);
        let thread = self.shared.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: a call with integer arguments. A thread that has ended meanwhile needs no kick.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGRTMIN()) };
        }
    }
}

/// Installs a handler: a signal interrupts a call only if it is handled.
fn handle_kicks() {
    extern "C" fn ignore(_signal: libc::c_int) {}
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: all zeros is a valid sigaction: an empty mask, and no flags.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
        // Calls other than KVM_RUN must not be interrupted.
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the handler does nothing. The call can only fail for a number that is no signal.
        unsafe { libc::sigaction(libc::SIGRTMIN(), &action, std::ptr::null_mut()) };
    });
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

fn owned(fd: i64) -> File {
    // SAFETY: the descriptor was just created and has no other owner.
    unsafe { File::from_raw_fd(fd as i32) }
}
