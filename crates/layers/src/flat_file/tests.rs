//! Files become layers and layers files, and no byte changes on the way: over random files and stacks, whole and sparse.

use super::*;

const PAGES: u64 = 96;
const LENGTH: u64 = PAGES * PAGE_SIZE as u64;

/// A directory that is removed at the end.
struct Dir(std::path::PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("forkd-flat-file-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("a directory of our own");
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("removing what the test made");
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Changes some pages of `memory`, some of them to zeros, and tells which it wrote, changed or not.
fn scribble(memory: &mut [u8], random: &mut Random) -> Vec<u64> {
    let mut written: Vec<u64> = (0..random.below(PAGES)).map(|_| random.below(PAGES)).collect();
    written.sort_unstable();
    written.dedup();
    for &page in &written {
        let fill = random.below(4) as u8;
        memory[page as usize * PAGE_SIZE..][..PAGE_SIZE].fill(fill);
    }
    written
}

fn imported(path: &Path, below: &[String], tracked: bool, layers: &Layers, blobs: &Blobs) -> (Vec<String>, u64) {
    let flat = FlatFile {
        path,
        length: LENGTH,
        below,
        tracked,
    };
    let Imported { stack, pages } = import(flat, layers, blobs).expect("import");
    (stack.into_iter().map(|blob| blob.digest).collect(), pages)
}

#[test]
fn what_went_in_comes_out() {
    for seed in 0..12 {
        let dir = Dir::new(&format!("round-{seed}"));
        let (layers, blobs) = (Layers::new(0, |_| ()), Blobs::open(&dir.0).expect("store"));
        let random = &mut Random(seed);
        let mut memory = vec![0; LENGTH as usize];
        scribble(&mut memory, random);
        let mut stack: Vec<String> = Vec::new();
        for step in 0..4 {
            let tracked = step > 0 && random.below(2) == 0;
            let path = dir.0.join(format!("memory-{step}"));
            let file = File::create(&path).expect("file");
            file.set_len(LENGTH).expect("size");
            let written = scribble(&mut memory, random);
            let pages = if tracked { written } else { (0..PAGES).collect() };
            for page in pages {
                let at = page * PAGE_SIZE as u64;
                file.write_all_at(&memory[at as usize..][..PAGE_SIZE], at)
                    .expect("write");
            }
            (stack, _) = imported(&path, &stack, tracked, &layers, &blobs);
            // Read from disk, by a value that holds no layer yet.
            let out = dir.0.join(format!("out-{step}"));
            let read = Layers::new(0, |_| ()).stack(LENGTH, &stack, &blobs).expect("stack");
            export(&read, &blobs, &out).expect("export");
            assert!(fs::read(&out).expect("read") == memory, "seed {seed}, step {step}");
        }
    }
}

#[test]
fn what_is_as_below_takes_no_layer() {
    let dir = Dir::new("same");
    let (layers, blobs) = (Layers::new(0, |_| ()), Blobs::open(&dir.0).expect("store"));
    let path = dir.0.join("memory");
    fs::write(&path, vec![7; LENGTH as usize]).expect("write");
    let (base, pages) = imported(&path, &[], false, &layers, &blobs);
    assert_eq!((base.len(), pages), (1, PAGES));
    let (same, pages) = imported(&path, &base, false, &layers, &blobs);
    assert_eq!((same, pages), (base, 0));
}

#[test]
fn a_file_of_another_size_is_refused() {
    let dir = Dir::new("size");
    let (layers, blobs) = (Layers::new(0, |_| ()), Blobs::open(&dir.0).expect("store"));
    let path = dir.0.join("memory");
    fs::write(&path, [1; 5000]).expect("write");
    let flat = FlatFile {
        path: &path,
        length: LENGTH,
        below: &[],
        tracked: false,
    };
    let error = import(flat, &layers, &blobs).expect_err("too short");
    assert_eq!(error.kind, LayerErrorKind::Invalid);
    let file = File::create(&path).expect("file");
    file.set_len(LENGTH).expect("size");
    let none = Stack::new(LENGTH, Vec::new()).expect("stack");
    export(&none, &blobs, &path).expect_err("it is there already");
}
