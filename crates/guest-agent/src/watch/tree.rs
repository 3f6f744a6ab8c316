//! The directories of one watch, and what the kernel's events mean for their paths.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use inotify::{Event, EventMask, WatchDescriptor, WatchMask, Watches};

use super::{Change, too_many};
use crate::error::{ApiError, ErrorCode};
use crate::http::is_temporary;

/// Directories of one watch. All watches of a guest share what its kernel allows.
const DIRECTORIES_MAX: usize = 4096;
/// Bytes of the paths of entries that are found in new directories and reported at once.
const FOUND_BYTES_MAX: usize = 1024 * 1024;
/// First halves of renames that wait for the second.
const HALVES_MAX: usize = 64;

/// An event as the kernel reports it.
pub struct Raw {
    watch: WatchDescriptor,
    mask: EventMask,
    cookie: u32,
    name: Option<OsString>,
}

impl From<Event<&OsStr>> for Raw {
    fn from(event: Event<&OsStr>) -> Raw {
        Raw {
            watch: event.wd,
            mask: event.mask,
            cookie: event.cookie,
            name: event.name.map(OsStr::to_owned),
        }
    }
}

/// The first half of a rename: an entry that has left its place.
struct Half {
    cookie: u32,
    path: PathBuf,
}

pub struct Tree {
    watches: Watches,
    root: PathBuf,
    recursive: bool,
    /// The path of the root is no longer what is watched.
    gone: bool,
    paths: HashMap<WatchDescriptor, PathBuf>,
    halves: Vec<Half>,
    /// Entries that were found in new directories, and whose creation may still be in the queue.
    found: HashSet<PathBuf>,
}

impl Tree {
    /// Watches a path, with `recursive` also the directories in it.
    pub fn plant(watches: Watches, root: PathBuf, recursive: bool) -> Result<Tree, ApiError> {
        let mut tree = Tree {
            watches,
            root,
            recursive,
            gone: false,
            paths: HashMap::new(),
            halves: Vec::new(),
            found: HashSet::new(),
        };
        tree.watch_root()?;
        Ok(tree)
    }

    pub fn is_gone(&self) -> bool {
        self.gone
    }

    pub fn has_half(&self) -> bool {
        !self.halves.is_empty()
    }

    /// Notes that the queue was empty a moment ago.
    pub fn drained(&mut self) {
        self.found.clear();
    }

    /// Entries that left their place and did not come back have left the tree.
    pub fn give_up_halves(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        while !self.halves.is_empty() {
            self.give_up(0, &mut changes);
        }
        changes
    }

    /// The changes that the events tell of, up to the first that cannot be followed.
    pub fn take(&mut self, events: Vec<Raw>) -> (Vec<Change>, Result<(), ApiError>) {
        let mut changes = Vec::new();
        for event in events {
            if self.gone {
                break;
            }
            if let Err(error) = self.take_one(event, &mut changes) {
                return (changes, Err(error));
            }
        }
        (changes, Ok(()))
    }

    fn take_one(&mut self, event: Raw, changes: &mut Vec<Change>) -> Result<(), ApiError> {
        let Raw {
            watch,
            mask,
            cookie,
            name,
        } = event;
        if mask.contains(EventMask::Q_OVERFLOW) {
            push(changes, Change::Overflow);
            return self.replant();
        }
        let Some(place) = self.paths.get(&watch).cloned() else {
            return Ok(());
        };
        let Some(name) = name else {
            return self.take_own(&watch, place, mask, changes);
        };
        // A file that is being written has no name yet: it appears when it is put in its place.
        if is_temporary(&name) {
            return Ok(());
        }
        let path = place.join(name);
        let is_dir = mask.contains(EventMask::ISDIR);
        if mask.contains(EventMask::MOVED_TO)
            && let Some(index) = self.halves.iter().position(|half| half.cookie == cookie)
        {
            let from = self.halves.remove(index).path;
            self.forget_below(&path);
            self.move_below(&from, &path);
            push(changes, Change::Rename { from, to: path });
            return Ok(());
        }
        // Whatever happens at the place that an entry has left comes after it has left.
        while let Some(index) = self.halves.iter().position(|half| path.starts_with(&half.path)) {
            self.give_up(index, changes);
        }
        if !self.paths.contains_key(&watch) {
            return Ok(());
        }
        if mask.intersects(EventMask::CREATE | EventMask::MOVED_TO) {
            if !self.found.remove(&path) {
                push(changes, Change::Create(path.clone()));
                if is_dir && self.recursive {
                    self.watch_new(path, changes)?;
                }
            }
        } else if mask.contains(EventMask::MOVED_FROM) {
            self.found.remove(&path);
            self.halves.push(Half { cookie, path });
            if self.halves.len() > HALVES_MAX {
                self.give_up(0, changes);
            }
        } else if mask.contains(EventMask::DELETE) {
            self.found.remove(&path);
            push(changes, Change::Remove(path));
        } else if mask.intersects(EventMask::MODIFY | EventMask::ATTRIB) {
            push(changes, Change::Modify(path));
        }
        Ok(())
    }

    /// An event of what is watched itself. Its parent reports what happens to a directory in the tree.
    fn take_own(
        &mut self,
        watch: &WatchDescriptor,
        path: PathBuf,
        mask: EventMask,
        changes: &mut Vec<Change>,
    ) -> Result<(), ApiError> {
        let ended = EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::UNMOUNT | EventMask::IGNORED;
        if path != self.root {
            if mask.contains(EventMask::IGNORED) {
                self.paths.remove(watch);
            }
        } else if mask.intersects(ended) || (mask.contains(EventMask::ATTRIB) && fs::metadata(&path).is_err()) {
            changes.extend(self.give_up_halves());
            push(changes, Change::Remove(path));
            self.gone = true;
        } else if mask.intersects(EventMask::MODIFY | EventMask::ATTRIB) {
            push(changes, Change::Modify(path));
        }
        Ok(())
    }

    fn give_up(&mut self, index: usize, changes: &mut Vec<Change>) {
        let Half { path, .. } = self.halves.remove(index);
        self.forget_below(&path);
        push(changes, Change::Remove(path));
    }

    /// Stops watching a directory that has left the tree, and those in it.
    fn forget_below(&mut self, path: &Path) {
        let left = self.paths.extract_if(|_, place| place.starts_with(path));
        for (watch, _) in left {
            // The watch of a directory that was removed has ended by itself.
            let _ = self.watches.remove(watch);
        }
    }

    /// Gives a renamed directory, and those in it, their new paths.
    fn move_below(&mut self, from: &Path, to: &Path) {
        for place in self.paths.values_mut() {
            if let Ok(rest) = place.strip_prefix(from) {
                *place = if rest.as_os_str().is_empty() {
                    to.to_owned()
                } else {
                    to.join(rest)
                };
            }
        }
    }

    fn watch_root(&mut self) -> Result<(), ApiError> {
        let root = self.root.clone();
        self.add(&root, mask())?;
        if !self.recursive {
            return Ok(());
        }
        let mut left = vec![root];
        while let Some(directory) = left.pop() {
            for name in directories_in(&directory)? {
                let path = directory.join(name);
                if self.add_below(&path)? {
                    left.push(path);
                }
            }
        }
        Ok(())
    }

    /// Watches all directories afresh, after events were lost.
    fn replant(&mut self) -> Result<(), ApiError> {
        self.halves.clear();
        self.found.clear();
        let before = std::mem::take(&mut self.paths);
        self.watch_root()?;
        for watch in before.into_keys() {
            if !self.paths.contains_key(&watch) {
                let _ = self.watches.remove(watch);
            }
        }
        Ok(())
    }

    /// Watches a new directory and those in it, and reports what was put there before they were watched.
    fn watch_new(&mut self, path: PathBuf, changes: &mut Vec<Change>) -> Result<(), ApiError> {
        let mut left = vec![path];
        let mut bytes = 0;
        while let Some(directory) = left.pop() {
            if !self.add_below(&directory)? {
                continue;
            }
            for (name, is_dir) in entries_in(&directory)? {
                let path = directory.join(name);
                if is_dir {
                    left.push(path.clone());
                }
                bytes += path.as_os_str().len();
                if bytes > FOUND_BYTES_MAX {
                    continue;
                }
                self.found.insert(path.clone());
                push(changes, Change::Create(path));
            }
        }
        if bytes > FOUND_BYTES_MAX {
            push(changes, Change::Overflow);
        }
        Ok(())
    }

    /// Watches a directory in the tree. `false` if it is not there any more, which its parent reports.
    fn add_below(&mut self, path: &Path) -> Result<bool, ApiError> {
        match self.add(path, mask() | WatchMask::ONLYDIR | WatchMask::DONT_FOLLOW) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.code, ErrorCode::NotFound | ErrorCode::NotADirectory) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn add(&mut self, path: &Path, mask: WatchMask) -> Result<(), ApiError> {
        if self.paths.len() == DIRECTORIES_MAX {
            let message = format!("{} has over {DIRECTORIES_MAX} directories", self.root.display());
            return Err(too_many(message));
        }
        let watch = self
            .watches
            .add(path, mask)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ENOSPC) => {
                    too_many("the guest has as many watches as fs.inotify.max_user_watches allows".into())
                }
                _ => ApiError::io(format_args!("watch {}", path.display()), &error),
            })?;
        self.paths.insert(watch, path.to_owned());
        Ok(())
    }
}

fn mask() -> WatchMask {
    WatchMask::CREATE
        | WatchMask::MODIFY
        | WatchMask::ATTRIB
        | WatchMask::DELETE
        | WatchMask::MOVE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::EXCL_UNLINK
}

/// A program that writes in small pieces changes a file many times.
fn push(changes: &mut Vec<Change>, change: Change) {
    if changes.last() != Some(&change) {
        changes.push(change);
    }
}

/// The entries of a directory, and whether each is a directory itself. None if it is gone, or no directory.
fn entries_in(path: &Path) -> Result<Vec<(OsString, bool)>, ApiError> {
    let failed = |error: io::Error| ApiError::io(format_args!("watch {}", path.display()), &error);
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_temporary(&entry.file_name()) {
            found.push((entry.file_name(), is_dir));
        }
    }
    Ok(found)
}

fn directories_in(path: &Path) -> Result<impl Iterator<Item = OsString>, ApiError> {
    let entries = entries_in(path)?.into_iter();
    Ok(entries.filter(|(_, is_dir)| *is_dir).map(|(name, _)| name))
}
