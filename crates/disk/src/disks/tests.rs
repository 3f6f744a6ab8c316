//! Disks in random order of operations against a list of blocks. Restarts leave everything as `kill -9` would.

use super::*;
use crate::recovery::Directory;
use crate::stack::Stack;
use crate::testing::Scratch;
use crate::writer;
use forkd_layers::Blobs;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

const BLOCK: usize = BLOCK_SIZE as usize;
const BLOCKS: u64 = 700;

#[derive(Debug, Clone)]
enum Step {
    Write {
        disk: usize,
        blocks: Range<u64>,
        tag: u8,
    },
    Clear {
        disk: usize,
        blocks: Range<u64>,
    },
    /// Branches a disk. It is written before it is sealed if there is a tag.
    Branch {
        disk: usize,
        blocks: Range<u64>,
        tag: Option<u8>,
    },
    /// A branch that fails after its instant: nobody seals the disk.
    BranchAndForget {
        disk: usize,
    },
    Fork {
        snapshot: usize,
    },
    Persist {
        snapshot: usize,
    },
    Merge {
        snapshot: usize,
    },
    Drop {
        snapshot: usize,
    },
    Close {
        disk: usize,
    },
    Maintain {
        disk: usize,
    },
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let blocks = (0..BLOCKS, 1..60u64).prop_map(|(start, count)| start..(start + count).min(BLOCKS));
    let all = any::<usize>();
    let step = prop_oneof![
        6 => (all, blocks.clone(), 1..255u8).prop_map(|(disk, blocks, tag)| Step::Write { disk, blocks, tag }),
        3 => (all, blocks.clone()).prop_map(|(disk, blocks)| Step::Clear { disk, blocks }),
        3 => (all, blocks, proptest::option::of(1..255u8)).prop_map(|(disk, blocks, tag)| Step::Branch { disk, blocks, tag }),
        1 => all.prop_map(|disk| Step::BranchAndForget { disk }),
        2 => all.prop_map(|snapshot| Step::Fork { snapshot }),
        1 => all.prop_map(|snapshot| Step::Persist { snapshot }),
        1 => all.prop_map(|snapshot| Step::Merge { snapshot }),
        1 => all.prop_map(|snapshot| Step::Drop { snapshot }),
        1 => all.prop_map(|disk| Step::Close { disk }),
        2 => all.prop_map(|disk| Step::Maintain { disk }),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 0..60)
}

/// The content of a disk: one byte for each block, which fills it.
type Naive = Vec<u8>;

struct Snapshot {
    layers: Vec<String>,
    naive: Naive,
}

struct World {
    scratch: Scratch,
    disks: Disks,
    open: BTreeMap<String, Naive>,
    snapshots: Vec<Snapshot>,
    keys: u32,
}

impl World {
    fn new() -> World {
        let scratch = Scratch::new();
        let disks = World::start(&scratch);
        let mut world = World {
            scratch,
            disks,
            open: BTreeMap::new(),
            snapshots: Vec::new(),
            keys: 0,
        };
        world.make(Vec::new(), vec![0; BLOCKS as usize]);
        world
    }

    fn start(scratch: &Scratch) -> Disks {
        let blobs = Blobs::open_shared(&scratch.path("store")).expect("a store");
        let directory = Directory::open(&scratch.path("store/disks/1")).expect("a directory");
        let (layers, found) = directory.recover(blobs).expect("recovered");
        Disks::new(directory.disks, layers, found)
    }

    fn make(&mut self, layers: Vec<String>, naive: Naive) {
        self.keys += 1;
        let key = format!("key-{}", self.keys);
        self.disks.open(request(&key, Some(layers))).expect("opened");
        self.open.insert(key, naive);
    }

    fn disk(&mut self, choice: usize) -> Option<(Arc<Export>, &mut Naive)> {
        let count = self.open.len();
        let (key, naive) = self.open.iter_mut().nth(choice % count.max(1))?;
        Some((self.disks.find(key).expect("open"), naive))
    }

    fn step(&mut self, step: Step) {
        let count = self.snapshots.len();
        match step {
            Step::Write { disk, blocks, tag } => {
                let Some((export, naive)) = self.disk(disk) else { return };
                write(&export.disk, naive, blocks, tag);
            }
            Step::Clear { disk, blocks } => {
                let Some((export, naive)) = self.disk(disk) else { return };
                export.disk.clear(blocks.clone()).expect("cleared");
                naive[blocks.start as usize..blocks.end as usize].fill(0);
            }
            Step::Branch { disk, blocks, tag } => {
                let Some((export, naive)) = self.disk(disk) else { return };
                let (epoch, at) = (export.disk.epoch().advance(), naive.clone());
                export.disk.start_audit().expect("noted");
                if let Some(tag) = tag {
                    write(&export.disk, naive, blocks, tag);
                }
                let (layers, _) = export.disk.seal(epoch).expect("sealed");
                let audit = export
                    .disk
                    .finish_audit(&self.stack_of_files(&layers))
                    .expect("the same");
                let content = at.iter().filter(|tag| **tag != 0).count() as u64;
                assert_eq!((audit.checked_blocks, audit.differing_blocks), (content, 0));
                self.snapshots.push(Snapshot { layers, naive: at });
            }
            Step::BranchAndForget { disk } => {
                let Some((export, _)) = self.disk(disk) else { return };
                export.disk.epoch().advance();
            }
            Step::Fork { .. } | Step::Persist { .. } | Step::Merge { .. } | Step::Drop { .. } if count == 0 => {}
            Step::Fork { snapshot } => {
                let Snapshot { layers, naive } = &self.snapshots[snapshot % count];
                self.make(layers.clone(), naive.clone());
            }
            Step::Persist { snapshot } => {
                let found = self
                    .disks
                    .layers
                    .find(&self.snapshots[snapshot % count].layers)
                    .expect("known");
                let digests = found
                    .iter()
                    .map(|layer| self.disks.layers.persist(layer).expect("persisted").digest);
                self.snapshots[snapshot % count].layers = digests.collect();
            }
            Step::Merge { snapshot } => {
                let stack = self.stack(&self.snapshots[snapshot % count].layers);
                let mut writer = self.disks.layers.writer().expect("a writer");
                stack.visit(|block, bytes| writer.put(block, bytes)).expect("read");
                let blob = writer.finish(BLOCKS).expect("finished");
                self.disks.layers.publish(writer.path(), &blob).expect("published");
                self.snapshots[snapshot % count].layers = vec![blob.digest];
            }
            Step::Drop { snapshot } => {
                self.snapshots.swap_remove(snapshot % count);
                self.drop_unnamed();
            }
            Step::Close { disk } => {
                let Some(key) = self.open.keys().nth(disk % self.open.len().max(1)).cloned() else {
                    return;
                };
                self.disks.close(&key);
                self.open.remove(&key);
            }
            Step::Maintain { disk } => {
                let Some((export, _)) = self.disk(disk) else { return };
                export.disk.maintain();
            }
            Step::Restart => self.restart(),
        }
    }

    /// Drops the layers that no snapshot names, as a controller does.
    fn drop_unnamed(&self) {
        let named = |layer: &String| self.snapshots.iter().any(|snapshot| snapshot.layers.contains(layer));
        let all = self.disks.layers.inventory().into_iter().map(|held| held.layer);
        let unnamed: Vec<String> = all.filter(|layer| !named(layer)).collect();
        self.disks.layers.drop_names(&unnamed);
    }

    fn restart(&mut self) {
        self.disks = World::start(&self.scratch);
        for key in self.open.keys() {
            // Layers that are given for a disk that is there count for nothing.
            self.disks
                .open(request(key, Some(vec!["nonsense".into()])))
                .expect("adopted");
        }
        self.drop_unnamed();
    }

    fn stack(&self, layers: &[String]) -> Stack {
        let found = self.disks.layers.find(layers).expect("known");
        self.disks.layers.stack(found, BLOCKS).expect("a stack")
    }

    fn stack_of_files(&self, layers: &[String]) -> Stack {
        let found = self.disks.layers.find(layers).expect("known");
        self.disks.layers.stack_of_files(found, BLOCKS).expect("a stack")
    }

    fn check(&self) {
        let mut bytes = vec![0; BLOCKS as usize * BLOCK];
        for (key, naive) in &self.open {
            let export = self.disks.find(key).expect("open");
            export.disk.read(0, &mut bytes).expect("read");
            assert_eq!(&tags(&bytes), naive, "disk {key}");
            let usage = export.disk.usage().expect("usage");
            let least = naive.iter().filter(|tag| **tag != 0).count() as u64 * BLOCK_SIZE;
            assert_eq!(usage.own_bytes + usage.shared_bytes, least, "use of {key}");
        }
        for Snapshot { layers, naive } in &self.snapshots {
            let stack = self.stack(layers);
            stack.read(0, &mut bytes).expect("read");
            assert_eq!(&tags(&bytes), naive, "snapshot {layers:?}");
            let (_, blocks) = writer::digest(&stack).expect("a digest");
            assert_eq!(blocks, naive.iter().filter(|tag| **tag != 0).count() as u64);
        }
    }

    /// Reads a snapshot that is damaged until the damage has been found.
    fn await_damage(&self, stack: &Stack) {
        let start = std::time::Instant::now();
        while stack.read(0, &mut [0; BLOCK]).is_ok() {
            assert!(start.elapsed().as_secs() < 60, "the damage is not found");
            std::thread::yield_now();
        }
    }

    /// Closes and drops everything, and expects that no file of a layer is left.
    fn end(mut self) {
        self.snapshots.clear();
        for key in std::mem::take(&mut self.open).keys() {
            self.disks.close(key);
        }
        self.drop_unnamed();
        for dir in ["layers", "disks"] {
            let left = std::fs::read_dir(self.scratch.path("store/disks/1").join(dir)).expect("a directory");
            let names: Vec<_> = left.map(|entry| entry.expect("an entry").file_name()).collect();
            assert!(names.is_empty(), "left in {dir}: {names:?}");
        }
    }
}

fn request(key: &str, layers: Option<Vec<String>>) -> OpenDisk {
    OpenDisk {
        key: key.into(),
        size_bytes: BLOCKS * BLOCK_SIZE,
        layers,
        pid: None,
    }
}

fn write(disk: &Disk, naive: &mut Naive, blocks: Range<u64>, tag: u8) {
    let bytes = vec![tag; (blocks.end - blocks.start) as usize * BLOCK];
    disk.write(blocks.start, &bytes).expect("written");
    naive[blocks.start as usize..blocks.end as usize].fill(tag);
}

fn tags(bytes: &[u8]) -> Naive {
    let tag = |block: &[u8]| {
        assert!(block.iter().all(|byte| *byte == block[0]), "a block of two writes");
        block[0]
    };
    bytes.chunks(BLOCK).map(tag).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn disks_and_snapshots_hold_what_was_written_in_any_order_of_operations(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.check();
        world.restart();
        world.check();
        world.end();
    }
}

#[test]
fn a_disk_without_content_reads_as_zeros_and_refuses_writes_until_it_is_bound() {
    let mut world = World::new();
    let (first, naive) = world.disk(0).expect("a disk");
    write(&first.disk, naive, 3..5, 9);
    let epoch = first.disk.epoch().advance();
    let (layers, own_bytes) = first.disk.seal(epoch).expect("sealed");
    assert_eq!(own_bytes, 2 * BLOCK_SIZE);
    let waiting = world.disks.open(request("waiting", None)).expect("opened");
    let mut block = [1; BLOCK];
    waiting.disk.read(3, &mut block).expect("read");
    assert_eq!(block, [0; BLOCK]);
    waiting.disk.write(3, &block).expect_err("it has no content");
    world.disks.bind("waiting", layers.clone()).expect("bound");
    waiting.disk.read(3, &mut block).expect("read");
    assert_eq!(block, [9; BLOCK]);
    world.disks.bind("waiting", layers).expect_err("it is bound");
    world.disks.close("waiting");
    waiting.disk.read(3, &mut block).expect_err("it is closed");
}

#[test]
fn an_audit_passes_at_depth_twenty_and_names_the_first_block_that_differs() {
    let mut world = World::new();
    let (mut key, mut below) = ("key-1".to_owned(), vec![0; BLOCKS as usize]);
    let mut snapshots: Vec<Vec<String>> = Vec::new();
    for depth in 0..20u64 {
        let export = world.disks.find(&key).expect("open");
        write(&export.disk, &mut below, depth..depth + 9, 1 + depth as u8);
        export.disk.clear(depth + 3..depth + 4).expect("cleared");
        let epoch = export.disk.epoch().advance();
        export.disk.start_audit().expect("noted");
        export
            .disk
            .write(depth, &[255; BLOCK])
            .expect("written after the instant");
        let (layers, _) = export.disk.seal(epoch).expect("sealed");
        let audit = export
            .disk
            .finish_audit(&world.stack_of_files(&layers))
            .expect("the same");
        assert_eq!(audit.differing_blocks, 0);
        below[depth as usize + 3] = 0;
        assert_eq!(
            audit.checked_blocks,
            below.iter().filter(|tag| **tag != 0).count() as u64
        );
        world.make(layers.clone(), below.clone());
        key = format!("key-{}", world.keys);
        snapshots.push(layers);
    }
    assert_eq!(snapshots[19].len(), 20);
    let last = world.disks.find(&key).expect("open");
    last.disk.start_audit().expect("noted");
    let error = last
        .disk
        .finish_audit(&world.stack_of_files(&snapshots[18]))
        .expect_err("another instant");
    assert_eq!(error.code, FaultCode::AuditFailed);
    assert!(error.message.contains("the first one block 19"), "{}", error.message);
    last.disk
        .finish_audit(&world.stack_of_files(&snapshots[19]))
        .expect_err("not started");
}

#[test]
fn an_epoch_of_an_earlier_server_is_refused() {
    let mut world = World::new();
    let (export, naive) = world.disk(0).expect("a disk");
    write(&export.disk, naive, 0..1, 1);
    // The branch moves the epoch, and the server ends before anybody asks for the snapshot.
    let epoch = export.disk.epoch().advance();
    world.restart();
    let (export, naive) = world.disk(0).expect("a disk");
    write(&export.disk, naive, 0..1, 2);
    let error = export.disk.seal(epoch).expect_err("another server's epoch");
    assert_eq!(error.code, FaultCode::BadRequest);
    export
        .disk
        .seal(export.disk.epoch().get() + 1)
        .expect_err("an epoch to come");
    export.disk.seal(export.disk.epoch().advance()).expect("sealed");
    world.check();
}

#[test]
fn a_layer_that_another_disk_is_writing_has_no_name() {
    let world = World::new();
    let names: Vec<String> = (0..9).map(|number| format!("disk:{number}")).collect();
    for name in names {
        let error = world.disks.layers.find(&[name]).expect_err("not sealed");
        assert_eq!(error.code, FaultCode::UnknownLayer);
    }
}

#[test]
fn layers_of_a_disk_of_another_size_are_refused() {
    let mut world = World::new();
    let (export, naive) = world.disk(0).expect("a disk");
    write(&export.disk, naive, 0..1, 1);
    let (layers, _) = export.disk.seal(export.disk.epoch().advance()).expect("sealed");
    let larger = OpenDisk {
        size_bytes: 2 * BLOCKS * BLOCK_SIZE,
        ..request("larger", Some(layers))
    };
    // The map of the stack may be known already: of a disk of the right size.
    assert_eq!(
        world.disks.open(larger).expect_err("refused").code,
        FaultCode::BadRequest
    );
}

#[test]
fn an_image_becomes_a_layer_without_its_zeros() {
    use std::os::unix::fs::FileExt;
    let world = World::new();
    let image = std::fs::File::create_new(world.scratch.path("image")).expect("a file");
    image.set_len(100 * BLOCK_SIZE + 10).expect("sized");
    image
        .write_all_at(&[5; 3 * BLOCK], 7 * BLOCK_SIZE + 100)
        .expect("written");
    image.write_all_at(&[0; 64 * BLOCK], 20 * BLOCK_SIZE).expect("written");
    image.write_all_at(&[6; 10], 100 * BLOCK_SIZE).expect("written");
    let mut out = world.disks.layers.writer().expect("a writer");
    out.put_image(&world.scratch.path("image"), 99)
        .expect_err("larger than the disk");
    out.put_image(&world.scratch.path("image"), BLOCKS).expect("imported");
    let blob = out.finish(BLOCKS).expect("finished");
    world.disks.layers.publish(out.path(), &blob).expect("published");
    let stack = world.stack(&[blob.digest]);
    assert_eq!(writer::digest(&stack).expect("a digest").1, 5);
    writer::export(&stack, BLOCKS, &world.scratch.path("again")).expect("exported");
    let mut wanted = std::fs::read(world.scratch.path("image")).expect("read");
    wanted.resize((BLOCKS * BLOCK_SIZE) as usize, 0);
    assert!(std::fs::read(world.scratch.path("again")).expect("read") == wanted);
    writer::export(&stack, BLOCKS, &world.scratch.path("again")).expect_err("a file that exists is left alone");
}

#[test]
fn nothing_is_read_from_a_stored_layer_that_is_found_to_be_damaged() {
    use std::os::unix::fs::FileExt;
    let mut world = World::new();
    let (export, naive) = world.disk(0).expect("a disk");
    write(&export.disk, naive, 0..9, 1);
    let (layers, _) = export.disk.seal(export.disk.epoch().advance()).expect("sealed");
    let layer = world.disks.layers.find(&layers).expect("known").remove(0);
    let blob = world.disks.layers.persist(&layer).expect("persisted");
    let path = world.scratch.path("store/blobs/sha256").join(&blob.digest[7..]);
    let file = std::fs::File::options().write(true).open(path).expect("opened");
    file.write_all_at(&[2], 4 * BLOCK_SIZE).expect("written");
    let stack = world.stack(&[blob.digest]);
    world.await_damage(&stack);
    assert_eq!(
        stack.read(0, &mut [0; BLOCK]).expect_err("damaged").code,
        FaultCode::CorruptLayer
    );
}
