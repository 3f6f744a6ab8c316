use std::fs::{self, OpenOptions};

use super::*;

const TEXT_AT: u64 = 0xffff_ffff_8100_0000;
const CODE_AT: u64 = 0x1200_0000;
const BASE_OFFSET: u64 = 0x2000;
const VDSO_OFFSET: u64 = 0x3000;
const POOL_OFFSET: u64 = 0x4000;
const SEGMENT_AT: u64 = 0x1000;

/// A `/proc` in a directory. Its kernel reseeds as it is told.
struct FakeProc {
    dir: PathBuf,
}

impl FakeProc {
    fn new(name: &str, symbols: &[(&str, u64)]) -> FakeProc {
        let dir = std::env::temp_dir().join(format!("forkd-crng-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory");
        let lines: String = symbols
            .iter()
            .map(|(name, offset)| format!("{:016x} b {name}\n", TEXT_AT + offset))
            .collect();
        fs::write(
            dir.join("kallsyms"),
            format!("{lines}ffffffffc0000000 t base_crng_x\t[module]\n"),
        )
        .expect("kallsyms");
        let iomem = "00001000-0009ffff : System RAM\n00100000-bfffffff : System RAM\n  12000000-12dfffff : Kernel code\n\
                     100000000-13fffffff : System RAM\n";
        fs::write(dir.join("iomem"), iomem).expect("iomem");
        let mut core = vec![0; 0x8000];
        core[..4].copy_from_slice(b"\x7fELF");
        core[32..40].copy_from_slice(&64u64.to_le_bytes());
        core[54..56].copy_from_slice(&56u16.to_le_bytes());
        core[56..58].copy_from_slice(&1u16.to_le_bytes());
        core[64..68].copy_from_slice(&1u32.to_le_bytes());
        core[72..80].copy_from_slice(&SEGMENT_AT.to_le_bytes());
        core[80..88].copy_from_slice(&TEXT_AT.to_le_bytes());
        core[104..112].copy_from_slice(&0x6000u64.to_le_bytes());
        fs::write(dir.join("kcore"), core).expect("kcore");
        FakeProc { dir }
    }

    fn find(&self, reseed: impl Fn(&mut Memory, u64)) -> Result<Vec<Entry>, String> {
        let mut round = 0;
        Proc::new(&self.dir).find(&mut || {
            let file = OpenOptions::new().read(true).write(true).open(self.dir.join("kcore"))?;
            round += 1;
            reseed(&mut Memory { file }, round);
            Ok(())
        })
    }
}

impl Drop for FakeProc {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

struct Memory {
    file: File,
}

impl Memory {
    fn put(&mut self, offset: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, SEGMENT_AT + offset).expect("written");
    }
}

const ALL: [(&str, u64); 4] = [
    ("_text", 0),
    ("base_crng", BASE_OFFSET),
    ("input_pool", POOL_OFFSET),
    ("_vdso_rng_data", VDSO_OFFSET),
];

fn honest(memory: &mut Memory, round: u64) {
    memory.put(BASE_OFFSET, &[round as u8; 32]);
    memory.put(BASE_OFFSET + 32, &(4_295_000_000 + round * 7).to_le_bytes());
    memory.put(BASE_OFFSET + 40, &(round + 3).to_le_bytes());
    memory.put(VDSO_OFFSET + 8, &(round + 4).to_le_bytes());
    memory.put(POOL_OFFSET, &fresh_pool());
}

#[test]
fn a_kernel_that_reseeds_as_expected_is_understood() {
    let proc = FakeProc::new("honest", &ALL);
    // The numbers start at zero, so the first round of a proof does not rise by one, and the second one does.
    let entries = proc.find(honest).expect("found");
    let at = |offset: u64| CODE_AT + offset;
    let expected = [
        Entry {
            at: at(BASE_OFFSET),
            bytes: 32,
            op: Op::Mix,
        },
        Entry {
            at: at(BASE_OFFSET) + 40,
            bytes: 8,
            op: Op::Count,
        },
        Entry {
            at: at(VDSO_OFFSET) + 8,
            bytes: 8,
            op: Op::Count,
        },
        Entry {
            at: at(POOL_OFFSET),
            bytes: 32,
            op: Op::Mix,
        },
    ];
    assert_eq!(entries, expected);
    assert_eq!(Proc::new(&proc.dir).ram_above_4g(), Ok(1 << 30));
}

#[test]
fn an_older_kernel_has_no_number_for_the_vdso_and_may_have_no_known_pool() {
    let proc = FakeProc::new("older", &ALL[..3]);
    let entries = proc.find(|memory, round| {
        honest(memory, round);
        memory.put(POOL_OFFSET, &[9; 32]);
    });
    assert_eq!(entries.expect("found").len(), 2);
}

#[test]
fn a_layout_that_is_not_proven_is_not_used() {
    let why = |name: &str, reseed: fn(&mut Memory, u64)| FakeProc::new(name, &ALL).find(reseed).expect_err("refused");
    let same_key = why("key", |memory, round| {
        honest(memory, round);
        memory.put(BASE_OFFSET, &[1; 32]);
    });
    assert!(same_key.contains("key does not change"), "{same_key}");
    let no_number = why("none", |memory, round| {
        honest(memory, round);
        memory.put(BASE_OFFSET + 40, &(round * 2).to_le_bytes());
    });
    assert!(no_number.contains("no number rises"), "{no_number}");
    let two = why("two", |memory, round| {
        honest(memory, round);
        memory.put(BASE_OFFSET + 48, &round.to_le_bytes());
    });
    assert!(two.contains("more than one number"), "{two}");
    let vdso = why("vdso", |memory, round| {
        honest(memory, round);
        memory.put(VDSO_OFFSET + 8, &[0; 8]);
    });
    assert!(vdso.contains("no number rises"), "{vdso}");
}

#[test]
fn a_kernel_that_does_not_allow_it_gives_the_reason() {
    for (missing, expected) in [("kallsyms", "kallsyms"), ("kcore", "kcore"), ("iomem", "iomem")] {
        let proc = FakeProc::new(missing, &ALL);
        fs::remove_file(proc.dir.join(missing)).expect("removed");
        let why = proc.find(honest).expect_err("refused");
        assert!(why.contains(expected), "{why}");
    }
    let hidden = FakeProc::new("hidden", &[]);
    fs::write(
        hidden.dir.join("kallsyms"),
        "0000000000000000 T _text\n0000000000000000 b base_crng\n",
    )
    .expect("written");
    assert!(hidden.find(honest).expect_err("refused").contains("no addresses"));
    let twice = FakeProc::new("twice", &[("_text", 0), ("base_crng", 8), ("base_crng", 16)]);
    assert!(
        twice
            .find(honest)
            .expect_err("refused")
            .contains("no single symbol base_crng")
    );
}
