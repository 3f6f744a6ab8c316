//! All layers of a server, and the maps of their stacks.

use crate::error::{DiskError, Result, Step};
use crate::journal::{Header, Journal, ZEROS_LAYER};
use crate::layer::{self, Check, Files, Layer, Source};
use crate::layer_file;
use crate::map::{LAYER_NUMBERS_MAX, Map};
use crate::maps::{Known, Maps};
use crate::stack::Stack;
use crate::writer::LayerWriter;
use forkd_layers::Blobs;
use forkd_protocol::disk::{BLOCK_SIZE, DISK_LAYERS_MAX, HeldDiskLayer};
use forkd_protocol::{Blob, FaultCode};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

/// The files of a layer that will be begun later.
#[derive(Debug)]
pub struct Prepared {
    number: u64,
    data: File,
    journal: File,
    files: Files,
}

impl Prepared {
    pub fn remove(&self) {
        self.files.remove();
    }
}

#[derive(Debug)]
pub struct Layers {
    dir: PathBuf,
    blobs: Blobs,
    known: Mutex<HashMap<String, Arc<Layer>>>,
    maps: Maps,
    /// The next number for a layer or a disk of this directory.
    next: AtomicU64,
    /// The next number for a layer in this process.
    next_here: AtomicU32,
    /// Checks of layers of the store that were opened.
    unchecked: Sender<Check>,
}

impl Layers {
    /// The layers in `dir`, whose files have numbers below `next`.
    pub fn new(dir: PathBuf, blobs: Blobs, next: u64) -> Result<Layers> {
        let (unchecked, opened) = channel();
        std::thread::Builder::new()
            .name("checks".into())
            .spawn(move || run_checks(&opened))
            .step(|| "starting a thread".into())?;
        Ok(Layers {
            dir,
            blobs,
            known: Mutex::default(),
            maps: Maps::default(),
            next: AtomicU64::new(next),
            next_here: AtomicU32::new(ZEROS_LAYER + 1),
            unchecked,
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A number that nothing else in the directory has.
    pub fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn number_here(&self) -> Result<u32> {
        let number = self.next_here.fetch_add(1, Ordering::Relaxed);
        if number >= LAYER_NUMBERS_MAX {
            let message = format!("this server has opened {LAYER_NUMBERS_MAX} layers: start it again");
            return Err(DiskError::new(FaultCode::Internal, message));
        }
        Ok(number)
    }

    /// Makes the files of a new layer. That can take long on a busy file system, so it is done ahead.
    pub fn prepare(&self) -> Result<Prepared> {
        let number = self.next_number();
        let files = Files::of(&self.dir, &Source::Written(number));
        let data = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&files.data);
        let data = data.step(|| format!("making {}", files.data.display()))?;
        let journal = Journal::prepare(&files.journal).inspect_err(|_| files.remove())?;
        Ok(Prepared {
            number,
            data,
            journal,
            files,
        })
    }

    /// Begins a layer of the disk with the serial number `disk`.
    pub fn begin(&self, prepared: Prepared, disk: u64, epoch: u64, blocks: u64) -> Result<(Arc<Layer>, Journal)> {
        let header = Header {
            layer: prepared.number,
            disk,
            epoch,
            blocks,
        };
        let Prepared {
            number,
            data,
            journal,
            files,
        } = prepared;
        let begun = Journal::begin(files.journal.clone(), journal, header)
            .and_then(|journal| Ok((self.number_here()?, journal)));
        let (here, journal) = begun.inspect_err(|_| files.remove())?;
        let layer = Layer::new(here, Source::Written(number), data);
        Ok((Arc::new(layer), journal))
    }

    /// Opens a layer that an earlier server has begun.
    pub fn reopen(&self, number: u64) -> Result<Arc<Layer>> {
        let source = Source::Written(number);
        let path = Files::of(&self.dir, &source).data;
        let data = File::options().read(true).write(true).open(&path);
        let data = data.step(|| format!("opening {}", path.display()))?;
        Ok(Arc::new(Layer::new(self.number_here()?, source, data)))
    }

    /// Adds a layer that will not be written any more.
    pub fn add(&self, layer: Arc<Layer>) {
        self.lock().insert(layer.name(), layer);
    }

    /// The layers with these names, bottom first. A layer of the store is opened.
    pub fn find(&self, names: &[String]) -> Result<Vec<Arc<Layer>>> {
        if names.len() > DISK_LAYERS_MAX {
            let message = format!("a stack of {} layers has more than {DISK_LAYERS_MAX}", names.len());
            return Err(DiskError::bad_request(message));
        }
        names.iter().map(|name| self.find_one(name)).collect()
    }

    fn find_one(&self, name: &str) -> Result<Arc<Layer>> {
        let mut known = self.lock();
        let unknown = || DiskError::new(FaultCode::UnknownLayer, format!("there is no layer {name}"));
        if let Some(layer) = known.get(name) {
            // A layer that was never sealed has no name.
            let is_named = layer.is_held.load(Ordering::Relaxed) || matches!(layer.source, Source::Stored(_));
            return is_named.then(|| layer.clone()).ok_or_else(unknown);
        }
        let blob = self.blobs.path(name).map_err(|_| unknown())?;
        let source = Source::Stored(name.to_owned());
        // A link of its own keeps the layer when its snapshot is removed.
        let own = Files::of(&self.dir, &source).data;
        match fs::hard_link(&blob, &own) {
            Err(error) if error.kind() == ErrorKind::NotFound && !own.exists() => return Err(unknown()),
            Err(error) if !matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {
                return Err(error).step(|| format!("linking layer {name}"));
            }
            _ => {}
        }
        let data = File::open(&own).step(|| format!("opening layer {name}"))?;
        let layer = Arc::new(Layer::new(self.number_here()?, source, data));
        known.insert(name.to_owned(), layer.clone());
        // Fails only if the thread has ended. The layer is used as it is then.
        let _ = Check::of(&layer).map(|check| self.unchecked.send(check));
        Ok(layer)
    }

    /// The stack of these layers, bottom first. All must be of disks with `blocks` blocks.
    pub fn stack(&self, layers: Vec<Arc<Layer>>, blocks: u64) -> Result<Stack> {
        let known = self.maps.longest(&layers);
        let count = known.as_ref().map_or(0, |known| known.layers);
        let stack = self.stack_over(known, layers, blocks)?;
        if count < stack.layers.len() {
            self.maps.keep(&stack.layers, &stack.map, blocks);
        }
        Ok(stack)
    }

    /// The same stack, read from the files of its layers whatever is known of them.
    pub fn stack_of_files(&self, layers: Vec<Arc<Layer>>, blocks: u64) -> Result<Stack> {
        self.stack_over(None, layers, blocks)
    }

    /// The stack of these layers, of the lowest of which the map is known.
    fn stack_over(&self, known: Option<Known>, layers: Vec<Arc<Layer>>, blocks: u64) -> Result<Stack> {
        let same_size = |layer: &Layer, is: u64| {
            let (is, wanted) = (is * BLOCK_SIZE, blocks * BLOCK_SIZE);
            let message = || format!("layer {} is of a disk of {is} bytes, not {wanted}", layer.name());
            (is == wanted)
                .then_some(())
                .ok_or_else(|| DiskError::bad_request(message()))
        };
        let (mut map, mut count) = (Map::default(), 0);
        if let Some(known) = known {
            count = known.layers;
            same_size(&layers[count - 1], known.blocks)?;
            map = known.map;
        }
        for layer in &layers[count..] {
            let index = layer::index(&self.dir, layer)?;
            same_size(layer, index.blocks)?;
            layer.blocks.store(index.slots, Ordering::Relaxed);
            layer::put_over(&mut map, &index.map);
        }
        Ok(Stack::new(layers, map))
    }

    /// Remembers the map of a stack for the next disk on top of it.
    pub fn keep_map(&self, stack: &Stack, blocks: u64) {
        self.maps.keep(&stack.layers, &stack.map, blocks);
    }

    /// The size in blocks of the disk that a layer is of.
    pub fn disk_blocks(&self, stack: &[Arc<Layer>]) -> Result<u64> {
        let bottom = stack
            .first()
            .ok_or_else(|| DiskError::bad_request("a stack without layers has no size"))?;
        Ok(layer::index(&self.dir, bottom)?.blocks)
    }

    /// Writes a layer to the store, and waits until it is on disk.
    pub fn persist(&self, layer: &Layer) -> Result<Blob> {
        layer.trust()?;
        let mut blob = layer.blob.lock().expect("no panic while held");
        let done = match (&*blob, &layer.source) {
            (Some(done), _) => done.clone(),
            (None, Source::Stored(digest)) => {
                let size = layer.data.metadata().step(|| format!("reading {digest}"))?.len();
                Blob {
                    digest: digest.clone(),
                    size,
                }
            }
            (None, Source::Written(_)) => {
                let index = layer::index(&self.dir, layer)?;
                index.unused(|slot, count| layer.punch(slot, count));
                layer_file::finish(&layer.data, index.blocks, index.slots, &index.map)?
            }
        };
        self.publish(&Files::of(&self.dir, &layer.source).data, &done)?;
        *blob = Some(done.clone());
        Ok(done)
    }

    /// Starts a layer file that becomes a file of the store at once.
    pub fn writer(&self) -> Result<LayerWriter> {
        LayerWriter::new(self.dir.join(format!("{}.part", self.next_number())))
    }

    /// Gives a finished file its name in the store, unless it has it, and waits until that is on disk.
    pub fn publish(&self, path: &Path, blob: &Blob) -> Result<()> {
        let target = self
            .blobs
            .path(&blob.digest)
            .map_err(|error| DiskError::bad_request(error.message))?;
        match fs::hard_link(path, &target) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            linked => linked.step(|| format!("publishing {}", target.display()))?,
        }
        let dir = target.parent().expect("a file of the store is in a directory");
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .step(|| format!("syncing {}", dir.display()))
    }

    /// Forgets the names of sealed layers, and removes what nobody uses.
    pub fn drop_names(&self, names: &[String]) {
        for layer in names.iter().filter_map(|name| self.lock().get(name).cloned()) {
            layer.is_held.store(false, Ordering::Relaxed);
        }
        self.sweep();
    }

    /// Removes the layers that no disk uses and the controller has no name for.
    pub fn sweep(&self) {
        let mut known = self.lock();
        known.retain(|_, layer| {
            let is_needed = layer.is_held.load(Ordering::Relaxed) || Arc::strong_count(layer) > 1;
            if !is_needed {
                self.maps.forget(layer);
                Files::of(&self.dir, &layer.source).remove();
            }
            is_needed
        });
    }

    pub fn inventory(&self) -> Vec<HeldDiskLayer> {
        let known = self.lock();
        let held = |layer: &Arc<Layer>| HeldDiskLayer {
            layer: layer.name(),
            digest: layer
                .blob
                .try_lock()
                .ok()
                .and_then(|blob| Some(blob.as_ref()?.digest.clone())),
            bytes: layer.blocks.load(Ordering::Relaxed) * BLOCK_SIZE,
            held: layer.is_held.load(Ordering::Relaxed),
            disks: Arc::strong_count(layer) as u64 - 1,
        };
        known.values().map(held).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Layer>>> {
        self.known.lock().expect("no panic while held")
    }
}

/// Checks layers, one at a time, until there can be no more.
fn run_checks(opened: &Receiver<Check>) {
    for check in opened {
        if let Err(error) = check.run() {
            forkd_log::line("checks", &error.message);
        }
    }
}
