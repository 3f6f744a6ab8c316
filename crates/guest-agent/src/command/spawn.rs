//! Starts a program: the lookup in PATH, the user, the process group.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::users::User;
use crate::sys;

/// Everything about a program that is to be started. `env` is the whole environment.
pub struct Program<'a> {
    pub path: &'a Path,
    pub args: &'a [String],
    pub env: &'a BTreeMap<String, String>,
    pub cwd: &'a str,
    pub user: &'a User,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Lookup {
    Found(PathBuf),
    NotFound,
    NotExecutable,
}

/// Finds a program as a shell does: by PATH, or as a path (relative to `cwd`) where the name has a slash.
pub fn look_up(name: &str, search: &str, cwd: &str) -> Lookup {
    let candidates: Vec<PathBuf> = if name.contains('/') {
        vec![Path::new(cwd).join(name)]
    } else {
        search
            .split(':')
            .map(|folder| Path::new(cwd).join(folder).join(name))
            .collect()
    };
    let mut result = Lookup::NotFound;
    for candidate in candidates.into_iter().filter(|_| !name.is_empty()) {
        let Ok(metadata) = candidate.metadata() else {
            continue;
        };
        let executable = CString::new(candidate.as_os_str().as_bytes()).is_ok_and(|path| sys::executable(&path));
        if metadata.is_file() && executable {
            return Lookup::Found(candidate);
        }
        if metadata.is_file() || name.contains('/') {
            result = Lookup::NotExecutable;
        }
    }
    result
}

/// Starts the program as leader of its own session and process group. Gives its pid; waiting is the reaper's.
///
/// The descriptors in `inherit` stay open in it, with the numbers that they have here.
/// A terminal that is its stdin controls the session.
pub fn spawn(
    program: &Program<'_>,
    stdin: Stdio,
    stdout: OwnedFd,
    stderr: OwnedFd,
    inherit: &[OwnedFd],
) -> io::Result<u32> {
    let mut command = Command::new(program.path);
    command
        .arg0(&program.args[0])
        .args(&program.args[1..])
        .env_clear()
        .envs(program.env)
        .current_dir(program.cwd)
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr);
    become_user(&mut command, program.user, inherit);
    // The handle is dropped, not waited for: std neither kills nor reaps what it has given up.
    Ok(command.spawn()?.id())
}

fn become_user(command: &mut Command, user: &User, inherit: &[OwnedFd]) {
    let fds: Vec<i32> = inherit.iter().map(AsRawFd::as_raw_fd).collect();
    let (uid, gid, groups) = (user.uid, user.gid, user.groups.clone());
    let check = |result: libc::c_int| match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: the closure runs between fork and exec, and only makes system calls on memory prepared before the fork.
    unsafe {
        command.pre_exec(move || {
            check(libc::setsid())?;
            // A session without a terminal takes the first one. Where stdin is no terminal this fails, as it should.
            libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0);
            for &fd in &fds {
                check(libc::fcntl(fd, libc::F_SETFD, 0))?;
            }
            // An unprivileged agent (on a developer's host) can only run commands as itself.
            if libc::getuid() == uid && libc::getgid() == gid && libc::getuid() != 0 {
                return Ok(());
            }
            check(libc::setgroups(groups.len(), groups.as_ptr()))?;
            check(libc::setgid(gid))?;
            check(libc::setuid(uid))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PATH_DEFAULT;

    #[test]
    fn lookup_follows_the_shell() {
        assert!(matches!(look_up("sh", PATH_DEFAULT, "/"), Lookup::Found(_)));
        assert_eq!(look_up("no-such-program", PATH_DEFAULT, "/"), Lookup::NotFound);
        assert_eq!(look_up("", PATH_DEFAULT, "/"), Lookup::NotFound);
        assert_eq!(look_up("./passwd", "", "/etc"), Lookup::NotExecutable);
        assert_eq!(look_up("/etc", "", "/"), Lookup::NotExecutable);
        assert_eq!(look_up("bin/sh", "", "/"), Lookup::Found("/bin/sh".into()));
    }
}
