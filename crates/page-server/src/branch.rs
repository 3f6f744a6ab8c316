//! A fork's memory, captured at an instant while its pages are still being served.

use crate::error::{PageError, Result};
use crate::session::{Fork, Session};
use crate::template::{EarlyTemplate, ReadableSink};
use forkd_capture::{CaptureError, CaptureSet, FaultQueue, Region, Sink, Source, Statistics, Target, WpBranch};
use std::sync::Arc;

/// A capture under way, with the steps of [`WpBranch`]. Pages are those of the template; of one that is not in the set the fork
/// has what the template has. Dropping it, at any point, lets the fork go on as before. A fork that was captured is not left to
/// itself any more.
pub struct ServedBranch {
    fork: Arc<Fork>,
    /// `None` once the branch is finished or dropped.
    branch: Option<WpBranch>,
}

impl ServedBranch {
    /// Protects what the fork has of its memory, and lists it, while it runs.
    ///
    /// Refused for a fork that maps its template or has huge pages, and for one that has been left to itself.
    pub fn arm(session: &Session, sink: Arc<dyn Sink>) -> Result<ServedBranch> {
        let fork = session.fork().clone();
        let regions = fork.layout.regions().iter();
        let regions: Vec<Region> = regions
            .map(|region| Region {
                memory: region.memory,
                page: region.page,
            })
            .collect();
        if !is_whole(&regions) {
            let what = "it has not all of its template".into();
            return Err(PageError::Unwatchable { what });
        }
        let queue = Arc::new(FaultQueue::new().map_err(|error| PageError::Os {
            step: "making an eventfd",
            cause: Arc::new(error),
        })?);
        fork.watch(queue.clone())?;
        let mut served = ServedBranch { fork, branch: None };
        let target = Target {
            source: Source::of_regions(served.fork.peer.pid, regions, None),
            uffd: served.fork.uffd.clone(),
        };
        served.branch = Some(WpBranch::arm_served(target, queue, sink)?);
        Ok(served)
    }

    /// See [`WpBranch::settle`].
    pub fn settle(&mut self) -> Result<()> {
        Ok(self.branch().settle()?)
    }

    /// The instant: see [`WpBranch::take`].
    pub fn take(&mut self) -> Result<()> {
        self.fork.wait_for_events();
        Ok(self.branch().take()?)
    }

    /// A template that children can start from before anything has been copied. `sink` is the one that the branch was armed
    /// with, and
    /// `identity` names the image as [`Template::identity`] does.
    ///
    /// [`Template::identity`]: crate::Template::identity
    pub fn early<S: ReadableSink>(&mut self, sink: Arc<S>, identity: String) -> EarlyTemplate<S> {
        EarlyTemplate {
            parent: self.fork.clone(),
            image: self.branch().early(),
            sink,
            identity,
        }
    }

    /// See [`WpBranch::copy`].
    pub fn copy(&mut self, cancelled: impl Fn() -> bool) -> Result<()> {
        Ok(self.branch().copy(cancelled)?)
    }

    /// Lifts the protection. Fails if a page could not be had in time, since the fork had given it back.
    pub fn finish(mut self) -> Result<(Arc<CaptureSet>, Statistics)> {
        // After this, all memory that was freed so far is known.
        self.fork.stop_protecting();
        let branch = self.branch.take().expect("it is finished once");
        Ok(branch.finish()?)
    }

    fn branch(&mut self) -> &mut WpBranch {
        self.branch.as_mut().expect("it has not been finished")
    }
}

impl Drop for ServedBranch {
    fn drop(&mut self) {
        // The order matters: pages filled protected are released with the rest, and write faults are passed on until then.
        self.fork.stop_protecting();
        drop(self.branch.take());
        self.fork.stop_watching();
    }
}

fn is_whole(regions: &[Region]) -> bool {
    let mut sorted = regions.to_vec();
    sorted.sort_unstable_by_key(|region| region.page);
    let mut next = 0;
    sorted.iter().all(|region| {
        let follows = region.page == next;
        next += region.pages();
        follows
    })
}

impl From<CaptureError> for PageError {
    fn from(error: CaptureError) -> PageError {
        PageError::Capture(error)
    }
}
