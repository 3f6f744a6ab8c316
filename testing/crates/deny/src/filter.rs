//! Denials as a program that the kernel runs at each system call.

use crate::denial::Denial;
use std::io;

const AUDIT_ARCH_X86_64: u32 = 0xC000_003E;
/// Where the fields of struct seccomp_data are. Of an argument, the lower half: a request is 32 bits wide.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const SECOND_ARGUMENT: u32 = 24;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// The program: all is allowed but what is denied.
pub fn program(denials: &[Denial]) -> Vec<libc::sock_filter> {
    let allow = step(RETURN, libc::SECCOMP_RET_ALLOW);
    // The system calls of another architecture have other numbers: those are left alone.
    let mut program = vec![step(LOAD, ARCHITECTURE), skip_if(AUDIT_ARCH_X86_64, 1), allow];
    for denial in denials {
        program.push(step(LOAD, NUMBER));
        match *denial {
            Denial::Syscall { number, errno } => {
                program.extend([skip_unless(number as u32, 1), fail(errno)]);
            }
            Denial::Request { request, errno } => {
                program.push(skip_unless(libc::SYS_ioctl as u32, 3));
                program.extend([step(LOAD, SECOND_ARGUMENT), skip_unless(request, 1), fail(errno)]);
            }
        }
    }
    program.push(allow);
    program
}

/// The program that ends the process at one call, and allows all else.
pub fn killing(number: i64) -> Vec<libc::sock_filter> {
    vec![
        step(LOAD, NUMBER),
        skip_unless(number as u32, 1),
        step(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
        step(RETURN, libc::SECCOMP_RET_ALLOW),
    ]
}

fn step(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

/// Passes over the next `steps` if what was loaded is `value`.
fn skip_if(value: u32, steps: u8) -> libc::sock_filter {
    libc::sock_filter {
        jt: steps,
        ..step(JUMP_IF_EQUAL, value)
    }
}

/// Passes over the next `steps` unless what was loaded is `value`.
fn skip_unless(value: u32, steps: u8) -> libc::sock_filter {
    libc::sock_filter {
        jf: steps,
        ..step(JUMP_IF_EQUAL, value)
    }
}

fn fail(errno: i32) -> libc::sock_filter {
    step(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32)
}

/// Puts `program` before the calling thread's system calls.
pub fn install(program: &[libc::sock_filter]) -> io::Result<()> {
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    // Only a privileged thread could install a filter otherwise.
    // SAFETY: a call with integer arguments.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: `filter` names `len` instructions that live through the call; the kernel checks and copies them.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter) })
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error of a call that would otherwise fail with another one.
    fn errno_of(call: impl FnOnce() -> i64) -> i32 {
        assert_eq!(call(), -1);
        io::Error::last_os_error().raw_os_error().expect("an error")
    }

    fn userfaultfd_with_bad_flags() -> i32 {
        // SAFETY: flags that no kernel knows: nothing is made.
        errno_of(|| unsafe { libc::syscall(libc::SYS_userfaultfd, -1) })
    }

    fn ioctl(request: u64) -> i32 {
        // SAFETY: a descriptor that is not open: the request is not looked at.
        errno_of(|| unsafe { libc::ioctl(-1, request, 0) }.into())
    }

    #[test]
    fn what_is_denied_fails_here_and_in_what_is_started_here_and_nothing_else_does() {
        let before = userfaultfd_with_bad_flags();
        assert_ne!(before, libc::EIO);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let denials = ["userfaultfd:EIO", "pagemap-scan"].map(|text| text.parse().expect("a denial"));
                install(&program(&denials)).expect("install");
                let seen = || [userfaultfd_with_bad_flags(), ioctl(0xC060_6610), ioctl(0xC060_6611)];
                let wanted = [libc::EIO, libc::ENOTTY, libc::EBADF];
                assert_eq!(seen(), wanted);
                let inherited = std::thread::scope(|scope| scope.spawn(seen).join().expect("no panic"));
                assert_eq!(inherited, wanted);
            });
        });
        assert_eq!(userfaultfd_with_bad_flags(), before, "only that thread was meant");
    }
}
