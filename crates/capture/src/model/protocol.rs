//! The order of a capture's atomic steps, as in `branch.rs` and `handler.rs`, and the mistakes that could be made in it.

use super::pages::{Page, PageSet};

/// An uninterrupted step of the branch or the handler. A call that acts on several pages is one step per page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Protects a page, as part of a call for one page or more.
    Protect(Page),
    /// Lifts a page's protection. The waiting writers are woken only by the `Wake` that ends the call.
    Unprotect(Page),
    Wake(PageSet),
    /// Lists the pages that are not protected yet, of which some may never have been populated.
    ListUnprotected,
    /// Reads a page, which populates it.
    Populate(Page),
    /// Scans this page, and decides by its entry whether it is private.
    Scan(Page),
    /// Used only by the mistaken scans: a look for pages in memory, and a look for pages that are away.
    LookForPresent(Page),
    LookForAway(Page),
    /// Chooses one of the next two, with this many rounds left.
    Settle {
        rounds: u8,
    },
    Settled,
    Round {
        rounds: u8,
    },
    /// Adds the touched pages of a round to the set.
    Touch(PageSet),
    /// Stops the writers.
    Stop,
    /// Locks the phase for the instant.
    Take,
    /// Makes the set final and shares it with the handler. Unlocks the phase.
    Capture {
        touched: PageSet,
    },
    Resume,
    /// Takes a chunk of any size that starts with this rank, or ends the copy.
    CopyFrom {
        rank: u8,
    },
    Chunk {
        rank: u8,
        pages: u8,
    },
    Copied,
    Claim(Page),
    /// Reads the claimed pages of the chunk.
    CopyClaimed,
    Read(Page),
    NoteRead(Page),
    Put(Page),
    Complete(Page),
    /// Ends the branch if the handler has failed.
    Check,
    AwaitKept,
    AssertCopied,
    /// Changes the phase to `Released`.
    Release,
    Signal,
    Join,
    /// Waits for a fault or the signal to stop, in the handler.
    Poll,
    LockKeeping,
    LockPhase,
    /// Reads some of the waiting faults, or ends the batch.
    ReadFaults,
    Fault(Page),
    ServeAll,
    Serve(Page),
    UnlockPhase,
    UnlockKeeping,
    /// Fails: a page cannot be read, or the sink refuses it.
    Fail,
}

/// A deliberate mistake, which checks the checker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    NotesBeforeReading,
    ReleasesBeforeReading,
    ForgetsTouchedPages,
    ReleasesWhatOthersRead,
    ReadsWhatOthersRead,
    ChangesPhaseLast,
    DoesNotProtectAgain,
    ScansBeforeProtecting,
    ListsOnlyWhatIsPresent,
    LooksForPresentAndAwayInTurn,
    LeavesUnpopulatedPages,
    LeavesTheProtection,
    LiftsWithoutWaking,
    DoesNotAwaitTheHandler,
}

/// The order of the steps for a range of `pages` pages.
#[derive(Debug, Clone, Copy)]
pub struct Protocol {
    pub pages: u8,
    /// Rounds of settling, at most.
    pub rounds: u8,
    /// True for a kernel that protects only populated pages, as Linux before 6.4 with anonymous memory.
    pub old_kernel: bool,
    pub mistake: Option<Mistake>,
}

impl Protocol {
    fn makes(self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    pub fn all(self) -> PageSet {
        (0..self.pages).collect()
    }

    /// Steps of `WpBranch::arm`, and the next one.
    pub fn branch(self) -> Vec<Step> {
        let mut protect: Vec<Step> = self.all().iter().map(Step::Protect).collect();
        if self.old_kernel && !self.makes(Mistake::LeavesUnpopulatedPages) {
            protect.push(Step::ListUnprotected);
        }
        let scan = self.scan();
        let settle = Step::Settle { rounds: self.rounds };
        if self.makes(Mistake::ScansBeforeProtecting) {
            [scan, protect, vec![settle]].concat()
        } else {
            [protect, scan, vec![settle]].concat()
        }
    }

    /// Steps of `Source::own_pages_protected`: one look per page.
    fn scan(self) -> Vec<Step> {
        let all = self.all();
        let present = all.iter().map(Step::LookForPresent);
        match self.mistake {
            Some(Mistake::ListsOnlyWhatIsPresent) => present.collect(),
            Some(Mistake::LooksForPresentAndAwayInTurn) => present.chain(all.iter().map(Step::LookForAway)).collect(),
            _ => all.iter().map(Step::Scan).collect(),
        }
    }

    /// Steps of `WpBranch::protect_unpopulated`, once it has its list.
    pub fn protect_listed(self, listed: PageSet) -> impl Iterator<Item = Step> {
        listed
            .iter()
            .map(Step::Populate)
            .chain(listed.iter().map(Step::Protect))
    }

    /// Steps of a round of `WpBranch::settle`. The phase is unlocked by then.
    pub fn round(self, touched: PageSet, rounds: u8) -> Vec<Step> {
        let mut steps = protect_again(touched);
        if !self.makes(Mistake::ForgetsTouchedPages) {
            steps.push(Step::Touch(touched));
        }
        steps.push(Step::Settle { rounds: rounds - 1 });
        steps
    }

    /// Steps of `WpBranch::take`, once the phase has been locked, and those after it.
    pub fn take(self, touched: PageSet) -> Vec<Step> {
        let mut steps = Vec::new();
        if !self.makes(Mistake::DoesNotProtectAgain) {
            steps = protect_again(touched);
        }
        steps.extend([
            Step::Capture { touched },
            Step::Check,
            Step::Resume,
            Step::CopyFrom { rank: 0 },
        ]);
        steps
    }

    /// Steps of `WpBranch::copy` for a chunk, once its pages have been claimed.
    pub fn copy(self, runs: &[PageSet]) -> Vec<Step> {
        let pages = || runs.iter().flat_map(|run| run.iter());
        let mut steps = self.read_and_release(runs);
        steps.extend(pages().map(Step::Put));
        steps.extend(pages().map(Step::Complete));
        steps
    }

    /// Steps that the bulk copy and the handler both take for claimed pages.
    pub fn read_and_release(self, runs: &[PageSet]) -> Vec<Step> {
        let pages = || runs.iter().flat_map(|run| run.iter());
        let read = pages().map(Step::Read);
        let note = pages().map(Step::NoteRead);
        let note_and_lift = runs
            .iter()
            .flat_map(|run| run.iter().map(Step::NoteRead).chain(lift(*run)));
        match self.mistake {
            Some(Mistake::NotesBeforeReading) => {
                note.chain(read).chain(runs.iter().flat_map(|run| lift(*run))).collect()
            }
            Some(Mistake::ReleasesBeforeReading) => {
                runs.iter().flat_map(|run| lift(*run)).chain(read).chain(note).collect()
            }
            _ => read.chain(note_and_lift).collect(),
        }
    }

    /// Steps at the end of `WpBranch::copy`, and those after it.
    pub fn copied(self) -> Vec<Step> {
        let mut steps = vec![Step::AwaitKept, Step::Check, Step::AssertCopied];
        if self.makes(Mistake::DoesNotAwaitTheHandler) {
            steps.remove(0);
        }
        steps.extend(self.release());
        steps
    }

    /// Steps of `WpBranch::release`.
    pub fn release(self) -> Vec<Step> {
        let release = [Step::Release].into_iter();
        let mut steps: Vec<Step> = match self.mistake {
            Some(Mistake::LeavesTheProtection) => release.collect(),
            Some(Mistake::LiftsWithoutWaking) => release.chain(self.all().iter().map(Step::Unprotect)).collect(),
            Some(Mistake::ChangesPhaseLast) => lift(self.all()).chain(release).collect(),
            _ => release.chain(lift(self.all())).collect(),
        };
        steps.extend([Step::Signal, Step::Join]);
        steps
    }

    /// Steps of the handler for a fault that another thread will serve.
    pub fn leave(self, page: Page) -> Vec<Step> {
        match self.mistake {
            Some(Mistake::ReleasesWhatOthersRead) => lift([page].into_iter().collect()).collect(),
            Some(Mistake::ReadsWhatOthersRead) => self.read_and_release(&[[page].into_iter().collect()]),
            _ => Vec::new(),
        }
    }
}

/// Lifts the protection of `pages` in one call.
pub fn lift(pages: PageSet) -> impl Iterator<Item = Step> {
    pages.iter().map(Step::Unprotect).chain([Step::Wake(pages)])
}

/// Protects from the first touched page to the last in one call: all pages of the model are near each other.
fn protect_again(touched: PageSet) -> Vec<Step> {
    match (touched.iter().min(), touched.iter().max()) {
        (Some(first), Some(last)) => (first..=last).map(Step::Protect).collect(),
        _ => Vec::new(),
    }
}
