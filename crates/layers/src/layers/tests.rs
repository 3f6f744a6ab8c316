//! Layers that are held, dropped and read again, with a store on disk and real memfds.

use super::*;
use crate::layer::{Durability, Extent};
use crate::views::PIECES_FEW;
use forkd_linux_sys::memfd::Mapping;
use forkd_linux_sys::{PAGE_SIZE, memfd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A store in a directory of its own.
struct Fixture {
    dir: PathBuf,
    blobs: Blobs,
    layers: Layers,
}

impl Fixture {
    fn new(budget_bytes: u64) -> Fixture {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("forkd-layers-{}-{serial}", std::process::id()));
        let blobs = Blobs::open(&dir).expect("a store");
        let layers = Layers::new(budget_bytes, |_| ());
        Fixture { dir, blobs, layers }
    }

    /// Holds a layer that is on disk, and returns both of its names.
    fn store(&self, layer: Layer) -> (LayerName, LayerName) {
        let layer = Arc::new(layer);
        let name = self.layers.add(layer.clone());
        let blob = self.blobs.put_layer(&layer, || false).expect("written");
        layer.set_durability(Durability::Durable(blob.clone()));
        self.layers.add_name(&blob.digest, &layer);
        (name, blob.digest)
    }

    fn stack(&self, length: u64, names: &[&str]) -> Arc<Stack> {
        let names: Vec<LayerName> = names.iter().map(|name| (*name).into()).collect();
        self.layers.stack(length, &names, &self.blobs).expect("stack")
    }

    fn in_memory(&self, name: &str) -> bool {
        let found = self.layers.inventory().into_iter().find(|held| held.name == name);
        found.expect("the name is known").in_memory
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A layer whose runs are filled with bytes of `fill` and of the page's number.
fn layer(is_base: bool, mem_pages: u64, fill: u8, runs: &[(u64, u64)]) -> Layer {
    let packed: u64 = runs.iter().map(|(_, pages)| pages).sum();
    let size = if is_base { mem_pages } else { packed } * PAGE_SIZE as u64;
    let file = memfd::create(c"test", size).expect("memfd");
    let target = Mapping::read_write(&file, size as usize).expect("map");
    let mut next = 0;
    let mut extents = Vec::new();
    for &(page, pages) in runs {
        let slot = if is_base { page } else { next };
        for inside in 0..pages {
            let byte = fill ^ (page + inside) as u8;
            target.write((slot + inside) as usize * PAGE_SIZE, &[byte; PAGE_SIZE]);
        }
        extents.push(Extent { page, slot, pages });
        next += pages;
    }
    drop(target);
    Layer::seal(
        file,
        mem_pages * PAGE_SIZE as u64,
        is_base,
        extents,
        Durability::Pending,
    )
    .expect("seal")
}

const MIB_PAGES: u64 = 256;
const MIB: u64 = 1 << 20;

#[test]
fn layers_that_nobody_uses_go_the_least_recently_used_first_and_come_back_from_disk() {
    let fixture = Fixture::new(2 * MIB);
    let names: Vec<_> = (0..4)
        .map(|fill| fixture.store(layer(true, MIB_PAGES, fill, &[(0, MIB_PAGES)])))
        .collect();
    // The first is used, and the second was used last.
    let used = fixture.stack(MIB, &[&names[0].1]);
    fixture.layers.keep_once();
    fixture.layers.limit(3 * MIB);
    fixture.layers.keep_once();
    drop(fixture.stack(MIB, &[&names[1].0]));
    fixture.layers.limit(MIB);
    fixture.layers.keep_once();
    let there: Vec<bool> = names.iter().map(|(_, digest)| fixture.in_memory(digest)).collect();
    assert_eq!(there, [true, true, false, false]);
    let memory = fixture.layers.memory_use();
    assert_eq!(
        (memory.used_bytes, memory.unused_bytes, memory.pending_bytes),
        (MIB, MIB, 0)
    );
    // By either name, with the bytes that it had.
    for (ram, digest) in &names {
        for name in [ram, digest] {
            let stack = fixture.stack(MIB, &[name]);
            let fill = names.iter().position(|(other, _)| other == ram).expect("one of them") as u8;
            assert!((0..MIB_PAGES).all(|page| stack.page(page) == Some(&[fill ^ page as u8; PAGE_SIZE][..])));
        }
        fixture.layers.keep_once();
    }
    assert!(fixture.layers.memory_use().loaded_again >= 2);
    drop(used);
}

#[test]
fn a_layer_that_is_not_on_disk_stays_whatever_the_budget() {
    let fixture = Fixture::new(0);
    let pending = Arc::new(layer(true, MIB_PAGES, 1, &[(0, MIB_PAGES)]));
    let failed = Arc::new(layer(true, MIB_PAGES, 2, &[(0, MIB_PAGES)]));
    failed.set_durability(Durability::Failed(LayerError::new(LayerErrorKind::DiskFull, "no room")));
    let names = [fixture.layers.add(pending), fixture.layers.add(failed)];
    fixture.layers.let_go(&names);
    fixture.layers.keep_once();
    assert!(names.iter().all(|name| fixture.in_memory(name)));
    assert_eq!(fixture.layers.memory_use().pending_bytes, 2 * MIB);
    for (name, fill) in names.iter().zip([1, 2]) {
        assert_eq!(fixture.stack(MIB, &[name]).page(0).map(|page| page[0]), Some(fill));
    }
}

#[test]
fn a_damaged_file_is_found_when_its_layer_comes_back() {
    let fixture = Fixture::new(0);
    let (name, digest) = fixture.store(layer(true, MIB_PAGES, 1, &[(0, MIB_PAGES)]));
    fixture.layers.keep_once();
    let path = fixture.blobs.path(&digest).expect("a digest");
    let mut bytes = std::fs::read(&path).expect("the file");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(&path, bytes).expect("damaged");
    let error = fixture
        .layers
        .stack(MIB, std::slice::from_ref(&name), &fixture.blobs)
        .expect_err("damaged");
    assert_eq!(error.kind, LayerErrorKind::Damaged);
    // A layer that was dropped is unknown by either name of this process' own.
    fixture.layers.drop_layer(&digest);
    let error = fixture.layers.stack(MIB, &[name], &fixture.blobs).expect_err("dropped");
    assert_eq!(error.kind, LayerErrorKind::UnknownLayer);
    assert!(fixture.layers.inventory().is_empty());
}

#[test]
fn what_is_set_aside_goes_when_its_last_user_has_gone() {
    let fixture = Fixture::new(64 * MIB);
    let (_, digest) = fixture.store(layer(true, MIB_PAGES, 1, &[(0, MIB_PAGES)]));
    let used = fixture.stack(MIB, &[&digest]);
    fixture.layers.let_go(std::slice::from_ref(&digest));
    fixture.layers.keep_once();
    assert!(fixture.in_memory(&digest), "it is in use");
    drop(used);
    fixture.layers.keep_once();
    assert!(!fixture.in_memory(&digest));
    drop(fixture.stack(MIB, &[&digest]));
    fixture.layers.keep_once();
    assert!(fixture.in_memory(&digest), "it was wanted after all, and there is room");
}

/// Threads ask for layers while these are dropped as fast as possible.
#[test]
fn whoever_asks_for_a_layer_that_is_being_let_go_gets_it() {
    let fixture = Fixture::new(0);
    let base = fixture.store(layer(true, 64, 1, &[(0, 64)]));
    let delta = fixture.store(layer(false, 64, 2, &[(8, 8)]));
    let ends = AtomicBool::new(false);
    let mut reads = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                fixture.layers.keep_once();
            }
        });
        let ask = |names: [String; 2]| {
            let fixture = &fixture;
            move || {
                let until = Instant::now() + Duration::from_secs(20);
                let mut count = 0;
                while fixture.layers.memory_use().loaded_again < 60 && Instant::now() < until {
                    let stack = fixture
                        .layers
                        .stack(64 * PAGE_SIZE as u64, &names, &fixture.blobs)
                        .expect("the layers");
                    for page in 0..64 {
                        let fill = if (8..16).contains(&page) { 2 } else { 1 };
                        assert_eq!(
                            stack.page(page),
                            Some(&[fill ^ page as u8; PAGE_SIZE][..]),
                            "page {page}"
                        );
                    }
                    count += 1;
                }
                count
            }
        };
        let threads = [
            scope.spawn(ask([base.0.clone(), delta.0.clone()])),
            scope.spawn(ask([base.1.clone(), delta.1.clone()])),
            scope.spawn(ask([base.1.clone(), delta.0.clone()])),
        ];
        reads += threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .sum::<u64>();
        ends.store(true, Ordering::Relaxed);
    });
    let again = fixture.layers.memory_use().loaded_again;
    assert!(reads > 60 && again >= 60, "{reads} stacks, {again} layers read again");
}

/// A sealed memfd's pages are the kernel's again when neither a descriptor nor a mapping of it is left.
#[test]
fn the_kernel_has_the_memory_of_a_layer_that_was_let_go() {
    const PAGES: u64 = 96 * MIB_PAGES;
    let shmem = || {
        host_memory::meminfo_kib("Shmem")
            .expect("readable")
            .expect("a kernel with memfds")
            << 10
    };
    let fixture = Fixture::new(PAGES * PAGE_SIZE as u64);
    let (_, digest) = fixture.store(layer(true, PAGES, 1, &[(0, PAGES)]));
    fixture.layers.keep_once();
    assert!(fixture.in_memory(&digest), "it is within the budget");
    // Other programs have such memory too: the difference must be clear, not exact.
    let until = Instant::now() + Duration::from_secs(20);
    let before = shmem();
    fixture.layers.limit(0);
    fixture.layers.keep_once();
    while before.saturating_sub(shmem()) < PAGES * PAGE_SIZE as u64 / 2 {
        assert!(Instant::now() < until, "{before} bytes before and {} after", shmem());
        std::thread::yield_now();
    }
}

/// A chain of layers that have every `step`-th page in them, each shifted by one.
fn scattered(fixture: &Fixture, mem_pages: u64, depth: u64, step: u64) -> Vec<LayerName> {
    let base = fixture.store(layer(true, mem_pages, 1, &[(0, mem_pages)])).1;
    let delta = |at: u64| {
        let runs: Vec<_> = (0..mem_pages / step).map(|i| (i * step + at % step, 1)).collect();
        fixture.store(layer(false, mem_pages, at as u8 + 2, &runs)).1
    };
    std::iter::once(base).chain((0..depth).map(delta)).collect()
}

fn assert_same(a: &Stack, b: &Stack) {
    let pages = a.length / PAGE_SIZE as u64;
    assert!(
        (0..pages).all(|page| a.page(page) == b.page(page)),
        "the same bytes in every page"
    );
}

#[test]
fn a_stack_that_is_mapped_again_is_merged_and_so_are_those_above_it() {
    let fixture = Fixture::new(256 * MIB);
    let length = 4096 * PAGE_SIZE as u64;
    let names = scattered(&fixture, 4096, 4, 8);
    let map = |names: &[LayerName]| {
        fixture
            .layers
            .mapped_stack(length, names, &fixture.blobs)
            .expect("memory")
    };
    let first = map(&names[..4]);
    assert!(
        Arc::ptr_eq(&first.stack, &first.mapped),
        "the first process maps the layers"
    );
    assert!(first.mapped.pieces() > PIECES_FEW);
    fixture.layers.keep_once();
    map(&names[..4]);
    fixture.layers.keep_once();
    let third = map(&names[..4]);
    assert!(
        third.mapped.pieces() <= third.stack.pieces() / 2,
        "{} pieces",
        third.mapped.pieces()
    );
    assert_same(&third.stack, &third.mapped);
    let above = map(&names);
    assert_eq!(above.mapped.layers.len(), 3, "the base, the view and the layer above");
    assert!(above.mapped.pieces() < above.stack.pieces());
    assert_same(&above.stack, &above.mapped);
    assert!(fixture.layers.memory_use().view_bytes > 0);
    assert_eq!(fixture.layers.memory_use().merged, 1);
    // A view goes like a layer that nobody uses, and with any layer that is in it.
    drop((first, third, above));
    fixture.layers.drop_layer(&names[1]);
    assert_eq!(fixture.layers.memory_use().view_bytes, 0);
}

#[test]
fn views_go_by_the_same_budget_and_take_half_of_it_at_most() {
    let fixture = Fixture::new(256 * MIB);
    let length = 4096 * PAGE_SIZE as u64;
    let names = scattered(&fixture, 4096, 3, 8);
    let map = || {
        fixture
            .layers
            .mapped_stack(length, &names, &fixture.blobs)
            .expect("memory")
    };
    for _ in 0..3 {
        map();
        fixture.layers.keep_once();
    }
    assert!(fixture.layers.memory_use().view_bytes > 0);
    fixture.layers.limit(0);
    fixture.layers.keep_once();
    let memory = fixture.layers.memory_use();
    assert_eq!((memory.unused_bytes, memory.view_bytes, memory.layers), (0, 0, 0));
    for _ in 0..6 {
        let again = map();
        fixture.layers.keep_once();
        assert!(Arc::ptr_eq(&again.stack, &again.mapped), "there is no room for a view");
    }
}

#[test]
fn a_stack_in_too_many_pieces_is_merged_before_it_is_mapped() {
    let mut fixture = Fixture::new(0);
    fixture.layers.pieces_max = 512;
    let mem_pages = 2048;
    let length = mem_pages * PAGE_SIZE as u64;
    // Every second page, in turns from four layers: as many pieces as can be.
    let names = scattered(&fixture, mem_pages, 3, 2);
    let memory = fixture
        .layers
        .mapped_stack(length, &names, &fixture.blobs)
        .expect("memory");
    assert!(memory.stack.pieces() > 512, "{} pieces", memory.stack.pieces());
    assert!(memory.mapped.pieces() <= 257, "{} pieces", memory.mapped.pieces());
    assert_same(&memory.stack, &memory.mapped);
    let told = fixture.layers.memory_use();
    assert_eq!(told.merged_on_demand, 1);
    assert!(told.merged_on_demand_us > 0);
}
