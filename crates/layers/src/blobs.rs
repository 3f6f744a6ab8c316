//! The store on disk: files named by digest.

use crate::blob::Blob;
use crate::error::{LayerError, LayerErrorKind, Result, Step};
use crate::file;
use crate::layer::Layer;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The names of this writer's unfinished files begin with this. The store's other writer leaves such files alone.
const INGEST_PREFIX: &str = "pager-";

/// A store on disk.
#[derive(Debug)]
pub struct Blobs {
    root: PathBuf,
    serial: AtomicU64,
}

/// A file that is deleted unless it was published.
struct Ingest<'a> {
    path: &'a Path,
    published: bool,
}

impl Drop for Ingest<'_> {
    fn drop(&mut self) {
        if !self.published {
            // A failure is harmless: the store's clean-up finds the file.
            let _ = fs::remove_file(self.path);
        }
    }
}

impl Blobs {
    /// Opens the store in the directory `root`, and removes what an earlier writer had begun and not finished. No other process may
    /// have the store open for writing layers.
    pub fn open(root: &Path) -> Result<Blobs> {
        let blobs = Blobs::open_shared(root)?;
        let ingest = root.join("ingest");
        for entry in fs::read_dir(&ingest)
            .step(|| format!("listing {}", ingest.display()))?
            .flatten()
        {
            if entry.file_name().to_string_lossy().starts_with(INGEST_PREFIX) {
                fs::remove_file(entry.path()).step(|| format!("removing {}", entry.path().display()))?;
            }
        }
        Ok(blobs)
    }

    /// Opens the store in the directory `root`, into which other processes may be writing.
    pub fn open_shared(root: &Path) -> Result<Blobs> {
        for dir in ["ingest", "blobs/sha256"] {
            fs::create_dir_all(root.join(dir)).step(|| format!("making {}", root.join(dir).display()))?;
        }
        Ok(Blobs {
            root: root.to_path_buf(),
            serial: AtomicU64::new(0),
        })
    }

    /// The path of a file in the store, whether or not it is there. Fails with `Invalid` if `digest` is no digest.
    pub fn path(&self, digest: &str) -> Result<PathBuf> {
        let hex = digest
            .strip_prefix("sha256:")
            .filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let hex = hex.ok_or_else(|| LayerError::new(LayerErrorKind::Invalid, format!("{digest:?} is not a digest")))?;
        Ok(self.root.join("blobs/sha256").join(hex))
    }

    /// Reads a layer and checks all of its bytes. Fails with `UnknownLayer`, `Damaged`, `OutOfMemory` or `Io`.
    pub fn load_layer(&self, digest: &str) -> Result<Layer> {
        let path = self.path(digest)?;
        let mut input = File::open(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => LayerError::new(
                LayerErrorKind::UnknownLayer,
                format!("layer {digest} is not in the store"),
            ),
            _ => LayerError::new(LayerErrorKind::Io, format!("opening layer {digest}: {error}")),
        })?;
        file::read(&mut input, digest)
    }

    /// Writes a layer and waits until it is on disk. Fails with `Cancelled` once `cancelled` returns true.
    pub fn put_layer(&self, layer: &Layer, cancelled: impl Fn() -> bool) -> Result<Blob> {
        self.ingest(|out| file::write(layer, out, cancelled), true)
    }

    /// Writes a small file without waiting for the disk.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Blob> {
        let write = |out: &mut File| {
            out.write_all(bytes).step(|| "writing a small file".into())?;
            Ok(Blob {
                digest: file::digest_of(bytes),
                size: bytes.len() as u64,
            })
        };
        self.ingest(write, false)
    }

    /// Copies a file and waits until it is on disk.
    pub fn put_file(&self, path: &Path) -> Result<Blob> {
        let mut source = File::open(path).step(|| format!("opening {}", path.display()))?;
        self.ingest(
            |out| file::copy(&mut source, out).step(|| format!("copying {}", path.display())),
            true,
        )
    }

    /// Waits until a file that was put without waiting is on disk.
    pub fn sync(&self, blob: &Blob) -> Result<()> {
        let path = self.path(&blob.digest)?;
        File::open(&path)
            .and_then(|file| file.sync_all())
            .step(|| format!("syncing {}", path.display()))?;
        self.sync_dir()
    }

    fn sync_dir(&self) -> Result<()> {
        let dir = self.root.join("blobs/sha256");
        File::open(&dir)
            .and_then(|dir| dir.sync_all())
            .step(|| format!("syncing {}", dir.display()))
    }

    fn ingest(&self, write: impl FnOnce(&mut File) -> Result<Blob>, sync: bool) -> Result<Blob> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let path = self
            .root
            .join("ingest")
            .join(format!("{INGEST_PREFIX}{}-{serial}", std::process::id()));
        let mut out = File::create_new(&path).step(|| format!("making {}", path.display()))?;
        let mut ingest = Ingest {
            path: &path,
            published: false,
        };
        let blob = write(&mut out)?;
        if sync {
            out.sync_all().step(|| format!("syncing {}", path.display()))?;
        }
        let target = self.path(&blob.digest)?;
        fs::rename(&path, &target).step(|| format!("publishing {}", target.display()))?;
        ingest.published = true;
        if sync {
            self.sync_dir()?;
        }
        Ok(blob)
    }
}
