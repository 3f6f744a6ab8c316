//! Threads with priority over ordinary ones.

use crate::check;

/// The priority of threads that do a little work and then wait: one that conducts a pause, a fault handler, a VMM's main loop.
const WAITING: i32 = 2;
/// The priority of a VMM's other threads. A vCPU among them computes without end until it has been stopped. At the same priority
/// as the main loop that has to stop it, it would keep its processor for 100 ms at a time, from that loop and from all others.
const COMPUTING: i32 = 1;

/// Gives a thread priority over all ordinary threads until this is dropped.
///
/// Meant for a few microseconds of work at a time that another thread waits for. Without the right to change priority
/// the thread continues as before: everything is as correct, and slower on a busy host.
#[derive(Debug)]
pub struct Urgent {
    thread: Option<i32>,
}

impl Urgent {
    /// Raises the calling thread. Threads that it starts are ordinary ones.
    pub fn this_thread() -> Urgent {
        Urgent::thread(0, WAITING)
    }

    /// Raises the threads that a process has now, its main thread above the others.
    fn threads_of(pid: i32) -> Vec<Urgent> {
        let priority = |id| if id == pid { WAITING } else { COMPUTING };
        threads_of(pid).map(|id| Urgent::thread(id, priority(id))).collect()
    }

    fn thread(id: i32, priority: i32) -> Urgent {
        let raised = set(id, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, priority);
        Urgent {
            thread: raised.then_some(id),
        }
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        // Fails only if the thread has ended.
        let _ = self.thread.map(|id| set(id, libc::SCHED_OTHER, 0));
    }
}

/// Gives priority to the calling thread, which conducts a pause, and to the threads of the VMM whose VM is paused.
#[derive(Debug)]
pub struct UrgentPause {
    // Fields are dropped in this order. A vCPU that runs again would otherwise keep the conductor, ordinary by then, from making
    // the vCPU ordinary too: the host would stand still until the kernel intervenes, after almost a second.
    _vmm: Vec<Urgent>,
    _conductor: Urgent,
}

impl UrgentPause {
    pub fn of(vmm: i32) -> UrgentPause {
        let conductor = Urgent::this_thread();
        UrgentPause {
            _vmm: Urgent::threads_of(vmm),
            _conductor: conductor,
        }
    }
}

/// Makes all threads of a process ordinary ones. The program that made them urgent may have been killed meanwhile.
pub fn make_ordinary(pid: i32) {
    // Fails only for a thread that has ended.
    threads_of(pid).for_each(|id| _ = set(id, libc::SCHED_OTHER, 0));
}

fn threads_of(pid: i32) -> impl Iterator<Item = i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    let names = threads.into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok())
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
    fn threads_that_a_dead_process_left_urgent_are_made_ordinary() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = child.id() as i32;
        std::mem::forget(Urgent::threads_of(pid));
        // SAFETY: a call without any effect.
        let policy = || unsafe { libc::sched_getscheduler(pid) } & !libc::SCHED_RESET_ON_FORK;
        assert_eq!(
            policy(),
            libc::SCHED_RR,
            "this test needs the right to it: run it as root"
        );
        make_ordinary(pid);
        assert_eq!(policy(), libc::SCHED_OTHER);
        child.kill().and_then(|()| child.wait()).expect("its end");
    }

    /// Restricts a thread, 0 for the calling one, to the first processor.
    fn pin(thread: i32) {
        // SAFETY: the set lives through the call.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(0, &mut set);
            assert_eq!(libc::sched_setaffinity(thread, size_of_val(&set), &raw const set), 0);
        }
    }

    #[test]
    fn a_vcpu_that_computes_does_not_keep_its_conductor_from_making_it_ordinary() {
        let mut vmm = std::process::Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .expect("a shell");
        let pid = vmm.id() as i32;
        pin(pid);
        let longest = std::thread::spawn(move || {
            pin(0);
            let ended = |_| {
                let pause = UrgentPause::of(pid);
                let start = std::time::Instant::now();
                drop(pause);
                start.elapsed()
            };
            (0..20).map(ended).max()
        });
        let longest = longest.join().expect("no panic").expect("twenty pauses");
        vmm.kill().and_then(|()| vmm.wait()).expect("its end");
        // The kernel takes the processor from such a vCPU after 950 ms.
        assert!(longest < std::time::Duration::from_millis(500), "{longest:?}");
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
