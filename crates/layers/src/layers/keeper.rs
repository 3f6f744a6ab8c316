//! The work of the keeper's thread: it drops unused layers and makes merged views, in the background.

use super::Layers;
use crate::error::Result;
use crate::merged::Outline;
use crate::views::Wanted;
use forkd_linux_sys::PAGE_SIZE;
use std::sync::Arc;

/// Views may take at most the budget divided by this, mapped or not: each of their pages is in a layer, too.
const VIEW_SHARE: u64 = 2;

impl Layers {
    /// Keeps to the budget, and makes the views that are wanted, until the process ends. Run it in a thread of its own.
    pub fn keep(&self) -> ! {
        loop {
            self.signal.wait();
            self.keep_once();
        }
    }

    /// Drops unused layers beyond the budget, and makes the views that are wanted, once.
    pub fn keep_once(&self) {
        self.trim();
        loop {
            let wanted = self.held().views.next_wanted();
            let Some(wanted) = wanted else { return };
            if let Err(error) = self.merge(wanted) {
                (self.log)(&format!("a merged view was not made: {error}"));
            }
            self.trim();
        }
    }

    fn trim(&self) {
        let budget_bytes = self.held().budget_bytes;
        self.let_go_unused(budget_bytes);
    }

    /// Makes a view, if it has at most half the pieces of the stack and there is room for it.
    fn merge(&self, Wanted { key, stack }: Wanted) -> Result<()> {
        let outline = Outline::of(&stack, usize::MAX);
        if (outline.extents() + 1) * 2 > stack.pieces() || self.held().views.has(&key) {
            return Ok(());
        }
        let bytes = outline.pages * PAGE_SIZE as u64;
        let share = self.held().budget_bytes / VIEW_SHARE;
        if self.held().view_bytes() + bytes > share {
            let unused = self.held().take_unused_views();
            drop(unused);
        }
        if self.held().view_bytes() + bytes > share {
            return Ok(());
        }
        let view = Arc::new(outline.make(&stack)?);
        let mut held = self.held();
        held.add_view(key, view);
        held.counts.merged += 1;
        Ok(())
    }
}
