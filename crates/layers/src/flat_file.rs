//! A stack as one flat file, each page at its own place: written out of layers, and read into a layer.

use crate::blob::Blob;
use crate::blobs::Blobs;
use crate::builder::LayerBuilder;
use crate::error::{LayerError, LayerErrorKind, Result, Step};
use crate::layer::{Durability, Extent};
use crate::layers::{LayerName, Layers};
use crate::stack::Stack;
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::sparse;
use forkd_linux_sys::uffd::Range;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use stored::Stored;

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// Pages are read this many at a time.
const CHUNK_PAGES: u64 = 256;

/// Writes the content of `stack` to a new file at `path`. Pages of zeros become holes. Where the file system can share blocks
/// between files, the other pages are the store's own blocks.
pub fn export(stack: &Stack, blobs: &Blobs, path: &Path) -> Result<()> {
    let file = File::create_new(path).step(|| format!("making {}", path.display()))?;
    let written = write_stack(stack, Some(blobs), &file).step(|| format!("writing {}", path.display()));
    if written.is_err() {
        // A file that was written in part would be taken for a whole one.
        let _ = fs::remove_file(path);
    }
    written
}

/// Writes the content of `stack` to an empty file. Without `blobs`, no blocks are shared with the store.
pub fn write_stack(stack: &Stack, blobs: Option<&Blobs>, file: &File) -> std::io::Result<()> {
    file.set_len(stack.length)?;
    let mut stored = blobs.map(|blobs| Stored::open(stack, blobs));
    for (layer, page, bytes) in stack.visible_runs() {
        let pages: Vec<&[u8]> = bytes.chunks(PAGE_SIZE).collect();
        let mut at = 0;
        while at < pages.len() {
            let skip = pages[at..].iter().take_while(|bytes| **bytes == ZEROS).count();
            let first = at + skip;
            let count = pages[first..].iter().take_while(|bytes| **bytes != ZEROS).count();
            let start = page + first as u64;
            let share = |stored: &mut Stored| stored.share(layer, start, count as u64, file);
            if !stored.as_mut().is_some_and(share) {
                let bytes = &bytes[first * PAGE_SIZE..][..count * PAGE_SIZE];
                file.write_all_at(bytes, start * PAGE_SIZE as u64)?;
            }
            at = first + count;
        }
    }
    Ok(())
}

/// A flat file to make a layer of.
#[derive(Debug, Clone, Copy)]
pub struct FlatFile<'a> {
    pub path: &'a Path,
    /// The length of the stack, and so of the file, in bytes.
    pub length: u64,
    /// The layers below, bottom first. Empty: the layer is a base.
    pub below: &'a [LayerName],
    /// The file has only the pages that were written since it was what the layers below hold, and its holes mean "as below".
    /// Otherwise the file has all pages, and is compared with the layers below.
    pub tracked: bool,
}

/// The layers that an import of a flat file leads to.
#[derive(Debug)]
pub struct Imported {
    /// All layers of the new stack, bottom first. A new layer without pages is left out.
    pub stack: Vec<Blob>,
    /// How many pages the new layer holds.
    pub pages: u64,
}

/// Makes a layer of the pages of a file that differ from the layers below, and writes it to disk.
///
/// Fails with `Invalid` if the file has another length, with `Unsupported` if a tracked file lies on a file system that has no
/// holes of one page, and as [`Layers::stack`] does.
pub fn import(flat: FlatFile<'_>, layers: &Layers, blobs: &Blobs) -> Result<Imported> {
    let FlatFile {
        path,
        length,
        below,
        tracked,
    } = flat;
    let _in_use = layers.in_use();
    let below = layers.stack(length, below, blobs)?;
    let file = File::open(path).step(|| format!("opening {}", path.display()))?;
    let size = file.metadata().step(|| format!("looking at {}", path.display()))?.len();
    if size != length {
        let message = format!("{} has {size} bytes instead of {length}", path.display());
        return Err(LayerError::new(LayerErrorKind::Invalid, message));
    }
    let extents = extents_of(&data_ranges(&file, path, size, tracked)?);
    layers.make_room(extents.iter().map(|extent| extent.pages).sum(), "the memory file")?;
    let builder = LayerBuilder::new(below.clone())?;
    read_into(&builder, &extents, &file).step(|| format!("reading {}", path.display()))?;
    let layer = Arc::new(builder.seal(extents.into_iter())?);
    let mut all = if layer.is_base {
        Vec::new()
    } else {
        below.layers.clone()
    };
    if layer.is_base || layer.pages() > 0 {
        let blob = blobs.put_layer(&layer, || false)?;
        layer.set_durability(Durability::Durable(blob.clone()));
        layers.add_name(&blob.digest, &layer);
        all.push(layer.clone());
    }
    Ok(Imported {
        stack: all.iter().map(|layer| layer.wait_durable()).collect::<Result<_>>()?,
        pages: layer.pages(),
    })
}

/// The pages of `ranges`, each with a slot of its own.
fn extents_of(ranges: &[Range]) -> Vec<Extent> {
    let mut slot = 0;
    let extent = |range: &Range| {
        let pages = range.len() / PAGE_SIZE as u64;
        slot += pages;
        Extent {
            page: range.start / PAGE_SIZE as u64,
            slot: slot - pages,
            pages,
        }
    };
    ranges.iter().map(extent).collect()
}

/// The ranges of the file that count: all of it, or only those with data.
fn data_ranges(file: &File, path: &Path, size: u64, tracked: bool) -> Result<Vec<Range>> {
    if !tracked {
        return Ok(vec![Range { start: 0, end: size }]);
    }
    require_page_holes(path)?;
    let ranges = sparse::data_ranges(file, size).step(|| format!("looking for holes in {}", path.display()))?;
    let page = PAGE_SIZE as u64;
    if ranges
        .iter()
        .all(|range| range.start.is_multiple_of(page) && range.end.is_multiple_of(page))
    {
        return Ok(ranges);
    }
    let message = format!("{} has data that is no whole number of pages", path.display());
    Err(LayerError::new(LayerErrorKind::Invalid, message))
}

/// Fails with `Unsupported` if the file system rounds data up to more than one page: pages in a hole, which means "as below", would
/// count as zeros.
fn require_page_holes(path: &Path) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".holes");
    let trial = Path::new(&name);
    let file = File::create_new(trial).step(|| format!("making {}", trial.display()))?;
    let page = PAGE_SIZE as u64;
    let found = file
        .set_len(4 * page)
        .and_then(|()| file.write_all_at(&[1; PAGE_SIZE], 0))
        .and_then(|()| file.write_all_at(&[1; PAGE_SIZE], 2 * page))
        .and_then(|()| sparse::data_ranges(&file, 4 * page));
    let removed = fs::remove_file(trial);
    let found = found.step(|| format!("trying holes in {}", trial.display()))?;
    removed.step(|| format!("removing {}", trial.display()))?;
    let expected = [0, 2].map(|at| Range {
        start: at * page,
        end: (at + 1) * page,
    });
    if found == expected {
        return Ok(());
    }
    let message = format!("the file system of {} has no holes of one page", path.display());
    Err(LayerError::new(LayerErrorKind::Unsupported, message))
}

fn read_into(builder: &LayerBuilder, extents: &[Extent], file: &File) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK_PAGES as usize * PAGE_SIZE];
    for extent in extents {
        for skip in (0..extent.pages).step_by(CHUNK_PAGES as usize) {
            let part = extent.part(skip, CHUNK_PAGES.min(extent.pages - skip));
            let bytes = &mut buffer[..part.pages as usize * PAGE_SIZE];
            file.read_exact_at(bytes, part.page * PAGE_SIZE as u64)?;
            builder.put(part, bytes)?;
        }
    }
    Ok(())
}

mod stored;
#[cfg(test)]
mod tests;
