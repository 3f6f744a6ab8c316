//! Guest memory as one flat file, which is how Firecracker reads and writes it: out of a stack of layers, and into one.

use crate::blobs::Blobs;
use crate::branch::LayerSink;
use crate::error::{PagerError, Result, Step};
use crate::layer::Durability;
use crate::layers::Layers;
use crate::room;
use crate::stack::Stack;
use forkd_capture::{CaptureSet, Sink};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::sparse;
use forkd_linux_sys::uffd::Range;
use forkd_protocol::{Answer, FaultCode, ImportMemory};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use stored::Stored;

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// Pages are read this many at a time.
const CHUNK_PAGES: u64 = 256;

/// Writes what a stack holds to a new file. Pages of zeros become holes; others are the store's own blocks, where the file
/// system can have a block belong to both.
pub fn export(stack: &Stack, blobs: &Blobs, path: &Path) -> Result<()> {
    let file = File::create_new(path).step(|| format!("making {}", path.display()))?;
    let written = write_stack(stack, Some(blobs), &file).step(|| format!("writing {}", path.display()));
    if written.is_err() {
        // What is left of it would be taken for the memory of a VM.
        let _ = fs::remove_file(path);
    }
    written
}

/// The same into an empty file. Without `blobs` no blocks are shared: memory has none.
pub fn write_stack(stack: &Stack, blobs: Option<&Blobs>, file: &File) -> std::io::Result<()> {
    file.set_len(stack.mem_bytes)?;
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

/// Makes a layer of what a file has that the stack below has not, and brings it to disk.
pub fn import(request: &ImportMemory, layers: &Layers, blobs: &Blobs) -> Result<Answer> {
    let ImportMemory {
        mem_bytes,
        stack,
        path,
        tracked,
    } = request;
    let path = Path::new(path);
    let below = layers.stack(*mem_bytes, stack, blobs)?;
    let file = File::open(path).step(|| format!("opening {}", path.display()))?;
    let size = file.metadata().step(|| format!("looking at {}", path.display()))?.len();
    if size != *mem_bytes {
        let message = format!("{} has {size} bytes, the memory {mem_bytes}", path.display());
        return Err(PagerError::new(FaultCode::BadRequest, message));
    }
    let set = CaptureSet::new(&ranges(&file, path, size, *tracked)?);
    room::check(set.len(), "the memory file")?;
    let sink = LayerSink::new(below.clone())?;
    read_into(&sink, &set, &file).step(|| format!("reading {}", path.display()))?;
    let layer = Arc::new(sink.seal(&set)?);
    let mut all = if layer.is_base {
        Vec::new()
    } else {
        below.layers.clone()
    };
    if layer.is_base || layer.pages() > 0 {
        let blob = blobs.put_layer(&layer, || false)?;
        layer.set_durability(Durability::Durable(blob.clone()));
        layers.add_name(&blob.digest, layer.clone());
        all.push(layer.clone());
    }
    Ok(Answer::Imported {
        stack: all.iter().map(|layer| layer.wait_durable()).collect::<Result<_>>()?,
        captured_pages: layer.pages(),
    })
}

/// What of the file counts: all of it, or where it has data.
fn ranges(file: &File, path: &Path, size: u64, tracked: bool) -> Result<Vec<Range>> {
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
    Err(PagerError::new(FaultCode::BadRequest, message))
}

/// A hole means "as below". Where the file system rounds data up to more than a page, pages that nobody wrote would count as
/// zeros: such a directory is refused.
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
    Err(PagerError::new(FaultCode::Unsupported, message))
}

fn read_into(sink: &LayerSink, set: &CaptureSet, file: &File) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK_PAGES as usize * PAGE_SIZE];
    for run in set.runs() {
        for skip in (0..run.pages).step_by(CHUNK_PAGES as usize) {
            let part = run.part(skip, CHUNK_PAGES.min(run.pages - skip));
            let bytes = &mut buffer[..part.pages as usize * PAGE_SIZE];
            file.read_exact_at(bytes, part.page * PAGE_SIZE as u64)?;
            sink.put(part, bytes)?;
        }
    }
    Ok(())
}

mod stored;
#[cfg(test)]
mod tests;
