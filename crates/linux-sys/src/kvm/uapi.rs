//! The numbers, layouts and calls of KVM's requests, from `<linux/kvm.h>` and `<asm/kvm.h>` on x86-64.

use crate::check;
use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;

pub const KVM_GET_API_VERSION: u64 = request(NONE, 0x00, 0);
pub const KVM_CREATE_VM: u64 = request(NONE, 0x01, 0);
pub const KVM_CHECK_EXTENSION: u64 = request(NONE, 0x03, 0);
pub const KVM_GET_VCPU_MMAP_SIZE: u64 = request(NONE, 0x04, 0);
pub const KVM_CREATE_VCPU: u64 = request(NONE, 0x41, 0);
pub const KVM_SET_USER_MEMORY_REGION: u64 = request(IN, 0x46, size_of::<MemoryRegion>());
pub const KVM_SET_TSS_ADDR: u64 = request(NONE, 0x47, 0);
pub const KVM_RUN: u64 = request(NONE, 0x80, 0);
pub const KVM_GET_REGS: u64 = request(OUT, 0x81, size_of::<General>());
pub const KVM_SET_REGS: u64 = request(IN, 0x82, size_of::<General>());
pub const KVM_GET_SREGS: u64 = request(OUT, 0x83, size_of::<Special>());
pub const KVM_SET_SREGS: u64 = request(IN, 0x84, size_of::<Special>());

const NONE: u64 = 0;
/// Direction of the argument: the kernel reads it (`IN`), or writes it (`OUT`).
const IN: u64 = 1;
const OUT: u64 = 2;

const fn request(direction: u64, number: u64, size: usize) -> u64 {
    (direction << 30) | ((size as u64) << 16) | (0xAE << 8) | number
}

/// `struct kvm_userspace_memory_region`.
#[repr(C)]
pub struct MemoryRegion {
    pub slot: u32,
    pub flags: u32,
    pub guest_address: u64,
    pub len: u64,
    pub host_address: u64,
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
    /// Nonzero if the limit counts pages.
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

/// The beginning of `struct kvm_run`, with the parts of its union that belong to input and output.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RunPage {
    pub request_interrupt_window: u8,
    pub immediate_exit: u8,
    pub padding: [u8; 6],
    pub exit_reason: u32,
    pub ready_for_interrupt: u8,
    pub interrupts_enabled: u8,
    pub flags: u16,
    pub cr8: u64,
    pub apic_base: u64,
    pub detail: Detail,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union Detail {
    pub io: InputOutput,
    pub memory_io: MemoryInputOutput,
    pub first_word: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct InputOutput {
    pub direction: u8,
    pub size: u8,
    pub port: u16,
    pub count: u32,
    /// Offset from the start of the page.
    pub data_offset: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemoryInputOutput {
    pub address: u64,
    pub data: [u8; 8],
    pub len: u32,
    pub is_write: u8,
}

// Compare with the kernel's numbers, so that a mistake in the structures above does not compile.
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

/// Sends a request whose argument is a number.
pub fn call(file: &File, request: u64, argument: u64) -> io::Result<i64> {
    assert_eq!(argument_size(request), 0, "the request takes a number");
    // SAFETY: the kernel uses the argument as a number, whatever its value.
    check(unsafe { libc::ioctl(file.as_raw_fd(), request, argument) }.into())
}

/// Sends a request that reads a structure.
pub fn set<T>(file: &File, request: u64, argument: &T) -> io::Result<()> {
    assert_eq!(
        argument_size(request),
        size_of::<T>(),
        "the request takes this structure"
    );
    // SAFETY: the kernel reads as many bytes as the request says, which the structure has.
    check(unsafe { libc::ioctl(file.as_raw_fd(), request, argument) }.into())?;
    Ok(())
}

/// Sends a request that writes a structure of which all fields are numbers.
pub fn get<T>(file: &File, request: u64, argument: &mut T) -> io::Result<()> {
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
