//! Filters of system calls, as Firecracker puts them before its threads: really the kernel's.

use crate::config::Filters;

/// A call that nothing here makes: a filter that allows everything else is a filter all the same.
const NEVER_MADE: i64 = libc::SYS_kexec_load;

/// The stage that is about to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The thread that takes the API's requests serves them.
    Api,
    /// The VM is complete, and stands still.
    Loaded,
    /// The VM runs.
    Run,
}

/// Filters the calling thread, if it is time.
pub fn install(filters: Filters, moment: Moment) {
    let number = match (filters, moment) {
        (Filters::None, _) => return,
        (_, Moment::Api) | (Filters::Allowing, Moment::Loaded) => NEVER_MADE,
        (Filters::FromLoad, Moment::Loaded) | (Filters::FromRun, Moment::Run) => libc::SYS_userfaultfd,
        _ => return,
    };
    forkd_deny::kill_at(number).expect("the kernel has filters of system calls");
}
