//! KVM, as far as a machine with one processor and one piece of memory needs it. Numbers and layouts are those of
//! `<linux/kvm.h>` and `<asm/kvm.h>` on x86-64.

use crate::check;
use crate::memfd::Mapping;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::sync::{Arc, Once};

const API_VERSION: i64 = 12;
const CAP_IMMEDIATE_EXIT: u64 = 136;
/// Three pages that Intel's processors may need to run real mode; beyond all memory that a machine here has.
const TSS_ADDRESS: u64 = 0xFFFB_D000;

const KVM_GET_API_VERSION: u64 = request(NONE, 0x00, 0);
const KVM_CREATE_VM: u64 = request(NONE, 0x01, 0);
const KVM_CHECK_EXTENSION: u64 = request(NONE, 0x03, 0);
const KVM_GET_VCPU_MMAP_SIZE: u64 = request(NONE, 0x04, 0);
const KVM_CREATE_VCPU: u64 = request(NONE, 0x41, 0);
const KVM_SET_USER_MEMORY_REGION: u64 = request(IN, 0x46, size_of::<MemoryRegion>());
const KVM_SET_TSS_ADDR: u64 = request(NONE, 0x47, 0);
const KVM_RUN: u64 = request(NONE, 0x80, 0);
const KVM_GET_REGS: u64 = request(OUT, 0x81, size_of::<General>());
const KVM_SET_REGS: u64 = request(IN, 0x82, size_of::<General>());
const KVM_GET_SREGS: u64 = request(OUT, 0x83, size_of::<Special>());
const KVM_SET_SREGS: u64 = request(IN, 0x84, size_of::<Special>());

const NONE: u64 = 0;
/// The kernel reads what the argument points to, or writes it.
const IN: u64 = 1;
const OUT: u64 = 2;

const fn request(direction: u64, number: u64, size: usize) -> u64 {
    (direction << 30) | ((size as u64) << 16) | (0xAE << 8) | number
}

const EXIT_IO: u32 = 2;
const EXIT_HALTED: u32 = 5;
const EXIT_MEMORY_IO: u32 = 6;
const IO_OUT: u8 = 1;

/// `struct kvm_userspace_memory_region`.
#[repr(C)]
struct MemoryRegion {
    slot: u32,
    flags: u32,
    guest_address: u64,
    len: u64,
    host_address: u64,
}

/// `struct kvm_regs`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct General {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8_to_r15: [u64; 8],
    pub rip: u64,
    pub rflags: u64,
}

/// `struct kvm_segment`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Segment {
    pub base: u64,
    pub limit: u32,
    pub selector: u16,
    pub kind: u8,
    pub present: u8,
    pub privilege: u8,
    pub default_size: u8,
    pub code_or_data: u8,
    pub long_mode: u8,
    /// Whether the limit counts pages.
    pub granularity: u8,
    pub available: u8,
    pub unusable: u8,
    pub padding: u8,
}

/// `struct kvm_dtable`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Table {
    pub base: u64,
    pub limit: u16,
    pub padding: [u16; 3],
}

/// `struct kvm_sregs`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Special {
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub tr: Segment,
    pub ldt: Segment,
    pub gdt: Table,
    pub idt: Table,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub efer: u64,
    pub apic_base: u64,
    pub interrupt_bitmap: [u64; 4],
}

/// The registers of a processor that a guest without interrupts and without a floating-point unit depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Registers {
    pub general: General,
    pub special: Special,
}

/// The beginning of `struct kvm_run`, with the parts of its union that belong to input and output.
#[repr(C)]
#[derive(Clone, Copy)]
struct RunPage {
    request_interrupt_window: u8,
    immediate_exit: u8,
    padding: [u8; 6],
    exit_reason: u32,
    ready_for_interrupt: u8,
    interrupts_enabled: u8,
    flags: u16,
    cr8: u64,
    apic_base: u64,
    detail: Detail,
}

#[repr(C)]
#[derive(Clone, Copy)]
union Detail {
    io: InputOutput,
    memory_io: MemoryInputOutput,
    first_word: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct InputOutput {
    direction: u8,
    size: u8,
    port: u16,
    count: u32,
    /// From the beginning of the page.
    data_offset: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct MemoryInputOutput {
    address: u64,
    data: [u8; 8],
    len: u32,
    is_write: u8,
}

// The kernel's numbers, so that a slip of the hand in the structures above does not compile.
const _: () = {
    assert!(KVM_SET_USER_MEMORY_REGION == 0x4020_AE46);
    assert!(KVM_GET_REGS == 0x8090_AE81 && KVM_GET_SREGS == 0x8138_AE83);
    assert!(KVM_SET_REGS == 0x4090_AE82 && KVM_SET_SREGS == 0x4138_AE84);
    assert!(offset_of!(General, rbp) == 0x38 && offset_of!(General, rip) == 0x80);
    assert!(size_of::<Segment>() == 24 && size_of::<Table>() == 16);
    assert!(offset_of!(Special, tr) == 0x90 && offset_of!(Special, gdt) == 0xC0);
    assert!(offset_of!(Special, cr0) == 0xE0 && offset_of!(Special, apic_base) == 0x110);
    assert!(offset_of!(RunPage, immediate_exit) == 1 && offset_of!(RunPage, exit_reason) == 8);
    assert!(offset_of!(RunPage, detail) == 0x20 && offset_of!(InputOutput, data_offset) == 8);
    assert!(offset_of!(MemoryInputOutput, len) == 16 && offset_of!(MemoryInputOutput, is_write) == 20);
};

/// KVM itself.
#[derive(Debug)]
pub struct Kvm {
    file: File,
}

impl Kvm {
    /// Fails when there is no `/dev/kvm`, when it may not be opened, and when it is too old to be kicked without a race
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

    /// A machine whose memory, from its address zero on, is `memory`.
    pub fn create_machine(&self, memory: Arc<Mapping>) -> io::Result<Machine> {
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
    /// Its one processor, as it is after a reset.
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

/// Why a processor has stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The guest wrote to a port. The instruction is complete only when the processor has been run again.
    Out { port: u16, value: u32 },
    /// The guest wrote to an address where there is no memory. Complete, likewise, only when it has been run again.
    Store { address: u64, value: u64 },
    /// Somebody has kicked it. It is between two instructions, all of them complete.
    Kicked,
    /// The guest has halted it.
    Halted,
    /// One of KVM's other reasons, and the first word that goes with it.
    Other { reason: u32, detail: u64 },
}

/// A virtual processor. It may be run by one thread after another.
#[derive(Debug)]
pub struct Processor {
    file: File,
    shared: Arc<Shared>,
    /// The guest writes there for as long as the processor is there.
    _memory: Arc<Mapping>,
}

/// What a processor shares with those who kick it.
#[derive(Debug)]
struct Shared {
    page: Mapping,
    /// The one that runs it at this moment, or zero.
    thread: AtomicI32,
}

impl Processor {
    /// Runs the guest until there is something to be done outside.
    pub fn run(&mut self) -> io::Result<Exit> {
        loop {
            // SAFETY: a call without arguments.
            let thread = unsafe { libc::gettid() };
            // Either whoever kicks sees the thread, or the kernel sees the kick: each writes before it looks.
            self.shared.thread.store(thread, Ordering::SeqCst);
            let result = call(&self.file, KVM_RUN, 0);
            self.shared.thread.store(0, Ordering::SeqCst);
            match result {
                Ok(_) => return Ok(self.exit()),
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Err(_) if self.shared.immediate_exit().swap(0, Ordering::SeqCst) != 0 => return Ok(Exit::Kicked),
                // A signal that means nothing here, or a kick that came so late that it had been noticed already.
                Err(_) => {}
            }
        }
    }

    /// What the kernel has left in the page that it shares.
    fn exit(&self) -> Exit {
        let page = self.shared.page.target(0, size_of::<RunPage>()).cast::<RunPage>();
        // SAFETY: the page holds such a structure, and the kernel writes to it only while the processor runs.
        let RunPage {
            exit_reason: reason,
            detail,
            ..
        } = unsafe { page.read() };
        // SAFETY: whichever of them the kernel has filled in, all are plain numbers.
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

    /// Something to end a run with, from another thread.
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
    /// Makes the run that is under way, or else the next one, return [`Exit::Kicked`].
    pub fn kick(&self) {
        self.shared.immediate_exit().store(1, Ordering::SeqCst);
        let thread = self.shared.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: a call with integer arguments. A thread that has ended meanwhile needs no kick.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGRTMIN()) };
        }
    }
}

/// A signal interrupts a call only when somebody handles it.
fn handle_kicks() {
    extern "C" fn ignore(_signal: libc::c_int) {}
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: all zeros is a valid sigaction: an empty mask, and no flags.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
        // Calls other than KVM_RUN are not to notice.
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
    // SAFETY: the descriptor was just created and is owned by nobody else.
    unsafe { File::from_raw_fd(fd as i32) }
}

/// A request whose argument is a number.
fn call(file: &File, request: u64, argument: u64) -> io::Result<i64> {
    assert_eq!(argument_size(request), 0, "the request takes a number");
    // SAFETY: the kernel takes the argument for a number, whatever it is.
    check(unsafe { libc::ioctl(file.as_raw_fd(), request, argument) }.into())
}

/// A request that reads a structure.
fn set<T>(file: &File, request: u64, argument: &T) -> io::Result<()> {
    assert_eq!(
        argument_size(request),
        size_of::<T>(),
        "the request takes this structure"
    );
    // SAFETY: the kernel reads as many bytes as the request says, which the structure has.
    check(unsafe { libc::ioctl(file.as_raw_fd(), request, argument) }.into())?;
    Ok(())
}

/// A request that writes a structure, all fields of which are numbers.
fn get<T>(file: &File, request: u64, argument: &mut T) -> io::Result<()> {
    assert_eq!(
        argument_size(request),
        size_of::<T>(),
        "the request gives this structure"
    );
    // SAFETY: the kernel writes as many bytes as the request says, which the structure has.
    check(unsafe { libc::ioctl(file.as_raw_fd(), request, argument) }.into())?;
    Ok(())
}

fn argument_size(request: u64) -> usize {
    (request >> 16) as usize & 0x3FFF
}
