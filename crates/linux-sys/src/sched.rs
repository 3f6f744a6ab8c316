//! Threads that must not wait for a processor.

use crate::check;

/// A thread that goes before all ordinary ones, for as long as this lives.
///
/// It is for a few microseconds of work at a time, for which somebody waits. Where the right to it is missing, the thread
/// goes on as it was: everything is as correct, and slower on a busy host.
#[derive(Debug)]
pub struct Urgent {
    thread: Option<i32>,
}

impl Urgent {
    /// The calling thread. Threads that it starts are ordinary ones.
    pub fn this_thread() -> Urgent {
        Urgent::thread(0)
    }

    /// The threads that a process has at this moment.
    pub fn threads_of(pid: i32) -> Vec<Urgent> {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
        let names = threads.into_iter().flatten().flatten().map(|entry| entry.file_name());
        names
            .filter_map(|name| name.to_str()?.parse().ok())
            .map(Urgent::thread)
            .collect()
    }

    fn thread(id: i32) -> Urgent {
        let raised = set(id, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, 1);
        Urgent {
            thread: raised.then_some(id),
        }
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        // It fails only when the thread has ended.
        let _ = self.thread.map(|id| set(id, libc::SCHED_OTHER, 0));
    }
}

fn set(thread: i32, policy: i32, priority: i32) -> bool {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the parameters live through the call, which has no effect on memory.
    check(unsafe { libc::sched_setscheduler(thread, policy, &parameters) }.into()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> i32 {
        // SAFETY: a call without any effect.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn a_thread_is_urgent_for_as_long_as_the_value_lives_and_its_children_are_not() {
        let before = policy();
        let urgent = Urgent::this_thread();
        assert!(
            urgent.thread.is_some(),
            "this test needs the right to it: run it as root"
        );
        assert_eq!(policy() & !libc::SCHED_RESET_ON_FORK, libc::SCHED_RR);
        let child = std::thread::spawn(policy).join().expect("no panic");
        assert_eq!(child, libc::SCHED_OTHER);
        drop(urgent);
        assert_eq!(policy(), before);
    }

    #[test]
    fn a_process_that_has_ended_has_no_threads_and_is_no_error() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = child.id() as i32;
        let threads = Urgent::threads_of(pid);
        assert!(matches!(threads[..], [Urgent { thread: Some(id) }] if id == pid));
        child.kill().and_then(|()| child.wait()).expect("its end");
        assert!(Urgent::threads_of(pid).is_empty());
        drop(threads);
    }
}
