//! The order of a capture's atomic steps, as `branch.rs` and `handler.rs` take them, and the mistakes that could be made in it.

use super::pages::{Page, PageSet};

/// What the branch or the handler does without being interrupted. A call that acts on several pages is one step a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// A page is protected, by a call for it or for more.
    Protect(Page),
    /// A page's protection is lifted. Those who wait for it are woken only by the `Wake` that ends the call.
    Unprotect(Page),
    Wake(PageSet),
    /// What is not protected yet, of which some may never have been populated, is listed.
    ListUnprotected,
    /// A page is read, so that it is there.
    Populate(Page),
    /// The scan comes to this page.
    Scan(Page),
    /// Either of the next two, with so many rounds left.
    Settle {
        rounds: u8,
    },
    Settled,
    Round {
        rounds: u8,
    },
    /// What a round took from the handler comes into the set.
    Touch(PageSet),
    /// The writers are stopped.
    Stop,
    /// The phase is locked for the instant.
    Take,
    /// The set is final, and shared with the handler. The phase is unlocked.
    Capture {
        touched: PageSet,
    },
    Resume,
    /// A chunk that begins with this rank, of any size, or the end.
    CopyFrom {
        rank: u8,
    },
    Chunk {
        rank: u8,
        pages: u8,
    },
    Copied,
    Claim(Page),
    /// What has been claimed of the chunk is to be read.
    CopyClaimed,
    Read(Page),
    NoteRead(Page),
    Put(Page),
    Complete(Page),
    /// A failure of the handler ends the branch here.
    Check,
    AwaitKept,
    AssertCopied,
    /// The phase becomes `Released`.
    Release,
    Ring,
    Join,
    /// The handler waits for a fault or the bell.
    Poll,
    LockKeeping,
    LockPhase,
    /// Any of the faults that wait, or the end of them.
    ReadFaults,
    Fault(Page),
    ServeAll,
    Serve(Page),
    UnlockPhase,
    UnlockKeeping,
    /// A page cannot be read, or the sink does not take it.
    Fail,
}

/// A mistake to make, so that the checker can be checked.
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
    LeavesUnpopulatedPages,
    LeavesTheProtection,
    LiftsWithoutWaking,
    DoesNotAwaitTheHandler,
}

/// The order of the steps for a range of so many pages.
#[derive(Debug, Clone, Copy)]
pub struct Protocol {
    pub pages: u8,
    /// Rounds of settling, at most.
    pub rounds: u8,
    /// On a kernel that protects only what is populated, as Linux before 6.4 with anonymous memory.
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

    /// `WpBranch::arm`, and what follows.
    pub fn branch(self) -> Vec<Step> {
        let mut protect: Vec<Step> = self.all().iter().map(Step::Protect).collect();
        if self.old_kernel && !self.makes(Mistake::LeavesUnpopulatedPages) {
            protect.push(Step::ListUnprotected);
        }
        let scan: Vec<Step> = self.all().iter().map(Step::Scan).collect();
        let settle = Step::Settle { rounds: self.rounds };
        if self.makes(Mistake::ScansBeforeProtecting) {
            [scan, protect, vec![settle]].concat()
        } else {
            [protect, scan, vec![settle]].concat()
        }
    }

    /// `WpBranch::protect_unpopulated`, once it has its list.
    pub fn protect_listed(self, listed: PageSet) -> impl Iterator<Item = Step> {
        listed
            .iter()
            .map(Step::Populate)
            .chain(listed.iter().map(Step::Protect))
    }

    /// One round of `WpBranch::settle`. The phase is not locked any more.
    pub fn round(self, touched: PageSet, rounds: u8) -> Vec<Step> {
        let mut steps = protect_again(touched);
        if !self.makes(Mistake::ForgetsTouchedPages) {
            steps.push(Step::Touch(touched));
        }
        steps.push(Step::Settle { rounds: rounds - 1 });
        steps
    }

    /// `WpBranch::take`, from when the phase has been locked, and what follows.
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

    /// A chunk of `WpBranch::copy`, once its pages have been claimed.
    pub fn copy(self, runs: &[PageSet]) -> Vec<Step> {
        let pages = || runs.iter().flat_map(|run| run.iter());
        let mut steps = self.read_and_release(runs);
        steps.extend(pages().map(Step::Put));
        steps.extend(pages().map(Step::Complete));
        steps
    }

    /// What the bulk copy and the handler alike do with what they have claimed.
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

    /// The end of `WpBranch::copy`, and what follows.
    pub fn copied(self) -> Vec<Step> {
        let mut steps = vec![Step::AwaitKept, Step::Check, Step::AssertCopied];
        if self.makes(Mistake::DoesNotAwaitTheHandler) {
            steps.remove(0);
        }
        steps.extend(self.release());
        steps
    }

    /// `WpBranch::release`.
    pub fn release(self) -> Vec<Step> {
        let release = [Step::Release].into_iter();
        let mut steps: Vec<Step> = match self.mistake {
            Some(Mistake::LeavesTheProtection) => release.collect(),
            Some(Mistake::LiftsWithoutWaking) => release.chain(self.all().iter().map(Step::Unprotect)).collect(),
            Some(Mistake::ChangesPhaseLast) => lift(self.all()).chain(release).collect(),
            _ => release.chain(lift(self.all())).collect(),
        };
        steps.extend([Step::Ring, Step::Join]);
        steps
    }

    /// What the handler does about a fault that somebody else is to deal with.
    pub fn leave(self, page: Page) -> Vec<Step> {
        match self.mistake {
            Some(Mistake::ReleasesWhatOthersRead) => lift([page].into_iter().collect()).collect(),
            Some(Mistake::ReadsWhatOthersRead) => self.read_and_release(&[[page].into_iter().collect()]),
            _ => Vec::new(),
        }
    }
}

/// One call that lifts the protection of `pages`.
pub fn lift(pages: PageSet) -> impl Iterator<Item = Step> {
    pages.iter().map(Step::Unprotect).chain([Step::Wake(pages)])
}

/// One call that reaches from the first touched page to the last: all pages of the model lie near to each other.
fn protect_again(touched: PageSet) -> Vec<Step> {
    match (touched.iter().min(), touched.iter().max()) {
        (Some(first), Some(last)) => (first..=last).map(Step::Protect).collect(),
        _ => Vec::new(),
    }
}
