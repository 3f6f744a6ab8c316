//! The guest: a program without a kernel, which writes all its memory over and over, and checks it on the way.
//!
//! Each page behind the program holds at four places the *step* in which it was last written, and its own number. A step
//! checks that a page holds at all places what was written one pass ago, and writes it again. So the correct content of
//! memory follows from one register. A copy of another instant than that of the registers shows, even of a part of a page.

use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::kvm::{Exit, Registers, Segment};
use forkd_linux_sys::memfd::{self, Mapping};
use std::fs::File;
use std::io;

/// All of the guest's memory: 16 MiB.
pub const PAGES: u32 = 4096;
/// The first pages hold the program and its page tables, and nobody writes to them.
const FIRST: u32 = 4;
const LAST: u32 = PAGES - 1;
pub const WRITTEN: u32 = PAGES - FIRST;
/// Where in a page there is a step, and behind it the page's number.
const PLACES: [usize; 4] = [0x000, 0x554, 0xAA8, 0xFF8];

/// The guest says how many steps it has completed whenever so many more are.
pub const STEPS_A_REPORT: u32 = 64;

/// Processor mode of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 16-bit real mode, which any KVM can run, if necessary by emulating each instruction. Then the emulator waits for a
    /// protected page. The guest reports by writing to ports.
    Real,
    /// 64-bit mode without privileges, with page tables of its own. The processor runs it, and KVM's page-fault handler
    /// waits for a protected page. The guest reports by writing to addresses without memory.
    Long,
}

/// A report of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// So many steps are complete.
    Steps(u32),
    /// The page at this address does not have what it had been given.
    WrongPage(u32),
}

/// The same program for each mode. The steps so far are in ebp, the page's number and address in ebx and edi; addresses are
/// 32 bits wide in both.
macro_rules! program {
    ($name:literal, $code:literal, steps: $steps:literal, wrong: $wrong:literal) => {
        std::arch::global_asm!(
            ".pushsection .rodata.forkd_guest, \"a\"",
            concat!(".globl ", $name, ", ", $name, "_end"),
            concat!(".hidden ", $name, ", ", $name, "_end"),
            $code,
            concat!($name, ":"),
            "2: mov eax, ebp",
            "sub eax, {written}",
            ".irp at, 0x000, 0x554, 0xaa8, 0xff8",
            "cmp [edi + \\at], eax",
            "jne 4f",
            "cmp [edi + \\at + 4], ebx",
            "jne 4f",
            ".endr",
            ".irp at, 0x000, 0x554, 0xaa8, 0xff8",
            "mov [edi + \\at], ebp",
            "mov [edi + \\at + 4], ebx",
            ".endr",
            "inc ebp",
            "inc ebx",
            "add edi, 4096",
            "cmp ebx, {last}",
            "jbe 3f",
            "mov ebx, {first}",
            "mov edi, {first} * 4096",
            "3: test ebp, {steps_a_report} - 1",
            "jnz 2b",
            "mov eax, ebp",
            $steps,
            "jmp 2b",
            "4: mov eax, edi",
            $wrong,
            "5: jmp 5b",
            concat!($name, "_end:"),
            ".code64",
            ".popsection",
            first = const FIRST,
            last = const LAST,
            written = const WRITTEN,
            steps_a_report = const STEPS_A_REPORT,
        );
    };
}

program!("forkd_guest_real", ".code16", steps: "out 0x10, eax", wrong: "out 0x11, eax");
program!("forkd_guest_long", ".code64", steps: "mov [0x1000000], eax", wrong: "mov [0x1000004], eax");

const STEPS_PORT: u16 = 0x10;
const WRONG_PORT: u16 = 0x11;
/// Right behind the memory.
const STEPS_ADDRESS: u64 = 0x100_0000;
const WRONG_ADDRESS: u64 = 0x100_0004;
const _: () = assert!(STEPS_ADDRESS == PAGES as u64 * PAGE_SIZE as u64);

unsafe extern "C" {
    safe static forkd_guest_real: u8;
    safe static forkd_guest_real_end: u8;
    safe static forkd_guest_long: u8;
    safe static forkd_guest_long_end: u8;
}

impl Mode {
    fn program(self) -> &'static [u8] {
        let (start, end) = match self {
            Mode::Real => (&raw const forkd_guest_real, &raw const forkd_guest_real_end),
            Mode::Long => (&raw const forkd_guest_long, &raw const forkd_guest_long_end),
        };
        // SAFETY: the assembly above puts so many bytes there, which nothing writes.
        unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
    }
}

/// Memory as the guest finds it, as a sealed file.
pub fn memory(mode: Mode) -> io::Result<File> {
    let len = PAGES as usize * PAGE_SIZE;
    let file = memfd::create(c"forkd-guest", len as u64)?;
    let mapping = Mapping::read_write(&file, len)?;
    mapping.write(0, mode.program());
    write_page_tables(&mapping);
    for page in FIRST..=LAST {
        // Fill memory as if a pass had just been made, with steps from zero.
        let words = [(page - FIRST).to_le_bytes(), page.to_le_bytes()].concat();
        for place in PLACES {
            mapping.write(page as usize * PAGE_SIZE + place, &words);
        }
    }
    drop(mapping);
    memfd::seal(&file)?;
    Ok(file)
}

/// Three levels, by which each address up to the first ones behind the memory means itself. All is marked as accessed and
/// dirty, so that nobody need write to the tables.
fn write_page_tables(memory: &Mapping) {
    const PRESENT_WRITABLE_USER: u64 = 0b111;
    const ACCESSED: u64 = 1 << 5;
    const DIRTY: u64 = 1 << 6;
    const TWO_MIB: u64 = 1 << 7;
    let put = |page: u64, index: u64, entry: u64| {
        let at = page as usize * PAGE_SIZE + index as usize * 8;
        memory.write(at, &(entry | PRESENT_WRITABLE_USER | ACCESSED).to_le_bytes());
    };
    put(1, 0, 2 << 12);
    put(2, 0, 3 << 12);
    (0..=STEPS_ADDRESS >> 21).for_each(|index| put(3, index, (index << 21) | TWO_MIB | DIRTY));
}

/// Makes `registers`, as they are after a reset, ready for the guest's first step.
pub fn start(mode: Mode, registers: &mut Registers) {
    let special = &mut registers.special;
    match mode {
        Mode::Real => {
            (special.cs.base, special.cs.selector) = (0, 0);
            // Else an address would have 16 bits.
            (special.ds.limit, special.ds.granularity) = (u32::MAX, 1);
        }
        Mode::Long => {
            let flat = Segment {
                limit: u32::MAX,
                present: 1,
                privilege: 3,
                code_or_data: 1,
                granularity: 1,
                ..Segment::default()
            };
            special.cs = Segment {
                selector: 0x33,
                kind: 11,
                long_mode: 1,
                ..flat
            };
            let data = Segment {
                selector: 0x2B,
                kind: 3,
                default_size: 1,
                ..flat
            };
            (special.ds, special.es, special.ss) = (data, data, data);
            // Paging and protection; physical addresses of more than 32 bits; long mode, enabled and active.
            (special.cr0, special.cr3, special.cr4, special.efer) = (0x8000_0031, 1 << 12, 1 << 5, 0x500);
        }
    }
    let general = &mut registers.general;
    (general.rip, general.rflags) = (0, 2);
    general.rbp = WRITTEN.into();
    (general.rbx, general.rdi) = (FIRST.into(), u64::from(FIRST) * PAGE_SIZE as u64);
}

/// The report in an exit, if the exit is a report of the guest.
pub fn word(exit: Exit) -> Option<Word> {
    match exit {
        Exit::Out { port, value } if port == STEPS_PORT => Some(Word::Steps(value)),
        Exit::Out { port, value } if port == WRONG_PORT => Some(Word::WrongPage(value)),
        Exit::Store { address, value } if address == STEPS_ADDRESS => Some(Word::Steps(value as u32)),
        Exit::Store { address, value } if address == WRONG_ADDRESS => Some(Word::WrongPage(value as u32)),
        _ => None,
    }
}

/// How many steps the guest has completed.
pub fn steps(registers: &Registers) -> u32 {
    registers.general.rbp as u32
}

/// The pages of `memory` that do not have what they must have after so many steps.
pub fn wrong_pages(memory: &[u8], steps: u32) -> Vec<u32> {
    let is_wrong = |page: &u32| {
        let bytes = &memory[*page as usize * PAGE_SIZE..][..PAGE_SIZE];
        !is_right(bytes, *page, steps)
    };
    (FIRST..=LAST).filter(is_wrong).collect()
}

fn is_right(bytes: &[u8], page: u32, steps: u32) -> bool {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let behind = (steps % WRITTEN + WRITTEN - (page - FIRST)) % WRITTEN;
    // The page that the guest is at may have been given the present step at its first places only.
    let (newest, oldest) = match behind {
        0 => (steps, steps - WRITTEN),
        _ => (steps - behind, steps - behind),
    };
    let found = PLACES.map(word);
    let right_numbers = PLACES.iter().all(|place| word(place + 4) == page);
    right_numbers && found.is_sorted_by(|a, b| a >= b) && found.iter().all(|step| [newest, oldest].contains(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(memory: &mut [u8], page: u32, place: usize, step: u32) {
        memory[page as usize * PAGE_SIZE + PLACES[place]..][..4].copy_from_slice(&step.to_le_bytes());
    }

    /// Else a capture of the wrong instant could pass.
    #[test]
    fn a_page_of_another_instant_or_a_part_of_one_is_wrong() {
        let file = memory(Mode::Real).expect("memfd");
        let mapping = Mapping::read_only(&file, PAGES as usize * PAGE_SIZE).expect("map");
        let mut bytes = mapping.bytes(0, mapping.len()).to_vec();
        assert_eq!(wrong_pages(&bytes, WRITTEN), [0; 0]);
        assert_eq!(wrong_pages(&bytes, WRITTEN + 1), [FIRST]);
        set(&mut bytes, FIRST, 0, WRITTEN);
        set(&mut bytes, FIRST, 1, WRITTEN);
        assert_eq!(wrong_pages(&bytes, WRITTEN), [0; 0], "half-way through its first step");
        assert_eq!(wrong_pages(&bytes, WRITTEN + 1), [FIRST]);
        set(&mut bytes, FIRST, 0, 0);
        assert_eq!(wrong_pages(&bytes, WRITTEN), [FIRST]);
        set(&mut bytes, FIRST, 1, 0);
        set(&mut bytes, LAST, 3, WRITTEN + LAST - FIRST);
        assert_eq!(wrong_pages(&bytes, WRITTEN), [LAST]);
    }
}
