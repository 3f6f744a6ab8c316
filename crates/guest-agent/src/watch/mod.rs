//! Watching a path for changes, with inotify. The kernel's queue is the only buffer: it is read when the host has taken
//! what came before, and the kernel says if it was too short.

mod tree;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hyper::StatusCode;
use inotify::Inotify;
use tokio::io::unix::AsyncFd;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::error::{ApiError, ErrorCode};
use crate::sys;
use tree::{Raw, Tree};

/// Bytes of one reading of the kernel's queue. Each event has at least 16 bytes, and may become a path of some KiB.
const READ_BYTES: usize = 16 * 1024;
/// How long the second half of a rename may take after the first: the kernel reports both at once, one after the other.
const RENAME_WAIT: Duration = Duration::from_millis(50);

/// Something that happened below the watched path.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    Create(PathBuf),
    Modify(PathBuf),
    Remove(PathBuf),
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    /// Changes are missing here: they came faster than they were taken.
    Overflow,
}

/// Too much is to be watched, by this watch or in the whole guest.
pub fn too_many(message: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::TooManyWatches, message)
}

pub struct Watch {
    queue: AsyncFd<Inotify>,
    /// Absent while a thread for blocking work has it.
    tree: Option<Tree>,
    /// Why nothing comes after the changes that were given last.
    failure: Option<ApiError>,
}

impl Watch {
    /// Begins to watch a file or a directory, with `recursive` also the directories in it.
    pub async fn begin(path: PathBuf, recursive: bool) -> Result<Watch, ApiError> {
        let inotify = Inotify::init().map_err(|error| match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => {
                too_many("the guest has as many inotify instances as it can have".to_string())
            }
            _ => failed(error),
        })?;
        let watches = inotify.watches();
        let planted = spawn_blocking(move || Tree::plant(watches, path, recursive));
        let tree = planted.await.expect("planting does not panic")?;
        Ok(Watch {
            queue: sys::readiness_of(inotify).map_err(failed)?,
            tree: Some(tree),
            failure: None,
        })
    }

    /// The next changes, of which there is at least one. `None` once the watched path itself is gone.
    pub async fn next(&mut self) -> Option<Result<Vec<Change>, ApiError>> {
        loop {
            if let Some(error) = self.failure.take() {
                return Some(Err(error));
            }
            let changes = match self.step().await? {
                Ok(changes) => changes,
                Err(error) => return Some(Err(failed(error))),
            };
            if !changes.is_empty() {
                return Some(Ok(changes));
            }
        }
    }

    /// Reads the queue once. Directories may have to be read, which blocks: another thread does it.
    async fn step(&mut self) -> Option<io::Result<Vec<Change>>> {
        let tree = self.tree.as_mut().filter(|tree| !tree.is_gone())?;
        let guard = if tree.has_half() {
            match timeout(RENAME_WAIT, self.queue.readable_mut()).await {
                Ok(guard) => guard,
                Err(_) => return Some(Ok(tree.give_up_halves())),
            }
        } else {
            self.queue.readable_mut().await
        };
        let read = match guard {
            Ok(mut guard) => guard.try_io(|queue| {
                let mut buffer = [0; READ_BYTES];
                let events = queue.get_mut().read_events(&mut buffer)?;
                Ok(events.map(Raw::from).collect::<Vec<_>>())
            }),
            Err(error) => Ok(Err(error)),
        };
        let events = match read {
            Ok(Ok(events)) => events,
            Ok(Err(error)) => return Some(Err(error)),
            Err(_) => {
                tree.drained();
                return Some(Ok(Vec::new()));
            }
        };
        let mut tree = self.tree.take()?;
        let work = spawn_blocking(move || {
            let told = tree.take(events);
            (tree, told)
        });
        let (tree, (changes, outcome)) = work.await.expect("taking events does not panic");
        self.tree = Some(tree);
        self.failure = outcome.err();
        Some(Ok(changes))
    }
}

fn failed(error: io::Error) -> ApiError {
    ApiError::io("watch", &error)
}
