//! The command line.

use crate::step::Step;
use std::path::{Path, PathBuf};

pub const USAGE: &str = "usage: forkd-jail probe DIR
       forkd-jail lock <FILE
       forkd-jail run --dir DIR --shim FILE --pager-socket PATH --root-image FILE --mem-bytes N [--steps ID,ID…]
                      [--cgroup DIR] [--file FILE]… [--net-socket PATH --net-key KEY] -- PROGRAM ARGUMENTS…";

#[derive(Debug, PartialEq, Eq)]
pub enum Arguments {
    /// `dir` is any directory: a root is tried on it, which nobody else sees.
    Probe {
        dir: PathBuf,
    },
    Lock,
    Run(Box<Run>),
}

/// How a VMM is started.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The directory of its sockets and logs, which it does not see itself.
    pub dir: PathBuf,
    /// The library that is preloaded into it.
    pub shim: PathBuf,
    /// Where its shim calls the pager. Nothing else that the VMM should not see is in that directory.
    pub pager_socket: PathBuf,
    pub root_image: PathBuf,
    /// Size of guest memory.
    pub mem_bytes: u64,
    pub steps: Vec<Step>,
    pub cgroup: Option<PathBuf>,
    /// Files that it reads, which it gets a copy of.
    pub files: Vec<PathBuf>,
    /// The socket to which the other end of its network wire goes, and the name that the wire has there.
    pub net_socket: Option<PathBuf>,
    pub net_key: String,
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

impl Run {
    /// The directory of the pager's socket.
    pub fn pager_dir(&self) -> &Path {
        self.pager_socket.parent().unwrap_or(Path::new("/"))
    }
}

pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = arguments.peekable();
    match arguments.next().as_deref() {
        Some("probe") => match (arguments.next(), arguments.next()) {
            (Some(dir), None) => Ok(Arguments::Probe { dir: dir.into() }),
            _ => Err("probe takes one directory".into()),
        },
        Some("lock") => match arguments.next() {
            None => Ok(Arguments::Lock),
            Some(_) => Err("lock takes no argument".into()),
        },
        Some("run") => parse_run(arguments).map(|run| Arguments::Run(Box::new(run))),
        Some(other) => Err(format!("{other:?} is not known")),
        None => Err("nothing is asked for".into()),
    }
}

fn parse_run(mut arguments: impl Iterator<Item = String>) -> Result<Run, String> {
    let mut run = Run::default();
    loop {
        let flag = arguments.next().ok_or("there is no -- and no program")?;
        if flag == "--" {
            break;
        }
        let value = arguments.next().ok_or_else(|| format!("{flag} is without a value"))?;
        match flag.as_str() {
            "--dir" => run.dir = value.into(),
            "--shim" => run.shim = value.into(),
            "--pager-socket" => run.pager_socket = value.into(),
            "--root-image" => run.root_image = value.into(),
            "--mem-bytes" => {
                run.mem_bytes = value
                    .parse()
                    .map_err(|_| format!("--mem-bytes {value:?} is not a number"))?;
            }
            "--steps" => run.steps = steps(&value)?,
            "--cgroup" => run.cgroup = Some(value.into()),
            "--file" => run.files.push(value.into()),
            "--net-socket" => run.net_socket = Some(value.into()),
            "--net-key" => run.net_key = value,
            _ => return Err(format!("{flag} is not known")),
        }
    }
    run.program = arguments.next().ok_or("there is no program after --")?.into();
    run.arguments = arguments.collect();
    if run.net_socket.is_some() == run.net_key.is_empty() {
        return Err("--net-socket and --net-key go together".into());
    }
    let paths = [
        ("--dir", &run.dir),
        ("--shim", &run.shim),
        ("--pager-socket", &run.pager_socket),
        ("--root-image", &run.root_image),
    ];
    for (flag, path) in paths {
        // The working directory and the root change on the way.
        if !path.is_absolute() {
            return Err(format!("{flag} must be an absolute path, it is {path:?}"));
        }
    }
    Ok(run)
}

fn steps(list: &str) -> Result<Vec<Step>, String> {
    let ids = list.split(',').filter(|id| !id.is_empty());
    ids.map(|id| Step::of(id).ok_or_else(|| format!("the step {id:?} is not known")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: [&str; 10] = [
        "--dir",
        "/d",
        "--shim",
        "/s.so",
        "--pager-socket",
        "/p/shim.sock",
        "--root-image",
        "/r.erofs",
        "--mem-bytes",
        "4096",
    ];

    fn parse_all(parts: &[&[&str]]) -> Result<Arguments, String> {
        parse(parts.concat().into_iter().map(String::from))
    }

    fn needed() -> Run {
        Run {
            dir: "/d".into(),
            shim: "/s.so".into(),
            pager_socket: "/p/shim.sock".into(),
            root_image: "/r.erofs".into(),
            mem_bytes: 4096,
            program: "qemu".into(),
            ..Run::default()
        }
    }

    #[test]
    fn a_run_needs_its_paths_and_takes_the_rest_as_the_programs_own() {
        let parsed = parse_all(&[&["run"], &NEEDED, &["--", "qemu", "--dir", "x", "--"]]);
        let arguments = ["--dir", "x", "--"].map(String::from).to_vec();
        assert_eq!(parsed, Ok(Arguments::Run(Box::new(Run { arguments, ..needed() }))));
    }

    #[test]
    fn steps_files_a_cgroup_and_a_network_are_taken_as_given() {
        let more = [
            "--steps",
            "own_user,no_new_privs",
            "--cgroup",
            "/c",
            "--file",
            "a",
            "--file",
            "b",
            "--net-socket",
            "/n",
            "--net-key",
            "k",
            "--",
            "qemu",
        ];
        let wanted = Run {
            steps: vec![Step::OwnUser, Step::NoNewPrivileges],
            cgroup: Some("/c".into()),
            files: vec!["a".into(), "b".into()],
            net_socket: Some("/n".into()),
            net_key: "k".into(),
            ..needed()
        };
        assert_eq!(
            parse_all(&[&["run"], &NEEDED, &more]),
            Ok(Arguments::Run(Box::new(wanted)))
        );
        let none = parse_all(&[&["run"], &NEEDED, &["--steps", "", "--", "qemu"]]);
        assert_eq!(none, Ok(Arguments::Run(Box::new(needed()))));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let problem = |parts: &[&[&str]]| parse_all(parts).expect_err("refused");
        assert!(problem(&[&["run"], &NEEDED, &["--steps", "own_user,moon", "--", "q"]]).contains("\"moon\""));
        assert!(problem(&[&["run"], &NEEDED, &["--what", "x", "--", "q"]]).contains("--what"));
        assert!(problem(&[&["run"], &NEEDED, &["--file"]]).contains("--file"));
        assert!(problem(&[&["run"], &NEEDED, &["--dir", "here", "--", "q"]]).contains("--dir"));
        assert!(problem(&[&["run"], &NEEDED, &["--mem-bytes", "1G", "--", "q"]]).contains("1G"));
        assert!(problem(&[&["run"], &NEEDED, &["--net-key", "k", "--", "q"]]).contains("--net-socket"));
        assert!(problem(&[&["run"], &NEEDED]).contains("--"));
        assert!(problem(&[&["run", "--", "q"]]).contains("--dir"));
        assert!(problem(&[&["probe"]]).contains("directory"));
        assert!(problem(&[&["walk"]]).contains("walk"));
    }

    #[test]
    fn every_step_has_a_name_of_its_own() {
        for step in Step::ALL {
            assert_eq!(Step::of(step.id()), Some(step));
        }
    }
}
