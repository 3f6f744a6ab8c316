//! The command line, as the real jailer reads it.

use std::collections::HashMap;
use std::path::PathBuf;

/// The most descriptors that a process has if nothing else is said.
const NO_FILE_DEFAULT: u64 = 2048;
const ID_CHARS_MAX: usize = 64;

/// Options with a value, and whether each may be given more than once.
const VALUED: [(&str, bool); 10] = [
    ("id", false),
    ("exec-file", false),
    ("uid", false),
    ("gid", false),
    ("chroot-base-dir", false),
    ("netns", false),
    ("cgroup", true),
    ("cgroup-version", false),
    ("parent-cgroup", false),
    ("resource-limit", true),
];
const FLAGS: [&str; 3] = ["daemonize", "new-pid-ns", "version"];

pub enum Wanted {
    Version,
    Jail(Arguments),
}

pub struct Arguments {
    pub id: String,
    pub exec_file: PathBuf,
    pub uid: u32,
    pub gid: u32,
    pub chroot_base: PathBuf,
    pub netns: Option<PathBuf>,
    pub daemonize: bool,
    pub new_pid_ns: bool,
    pub no_file: u64,
    pub fsize: Option<u64>,
    /// Arguments for Firecracker.
    pub extra: Vec<String>,
}

pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let mut given: HashMap<String, Vec<String>> = HashMap::new();
    let mut extra = Vec::new();
    while let Some(word) = words.next() {
        if word == "--" {
            extra.extend(words);
            break;
        }
        let unknown = || format!("Found argument '{word}' which wasn't expected, or isn't valid in this context.");
        let name = word.strip_prefix("--").ok_or_else(unknown)?;
        if FLAGS.contains(&name) {
            given.insert(name.into(), Vec::new());
            continue;
        }
        let (_, repeated) = VALUED.iter().find(|(known, _)| *known == name).ok_or_else(unknown)?;
        let missing = || format!("The argument '{name}' requires a value, but none was supplied.");
        let value = words
            .next()
            .filter(|value| !value.starts_with("--"))
            .ok_or_else(missing)?;
        let values = given.entry(name.into()).or_default();
        values.push(value);
        if values.len() > 1 && !repeated {
            return Err(format!("The argument '{name}' was provided more than once."));
        }
    }
    if given.contains_key("version") {
        return Ok(Wanted::Version);
    }
    arguments(&given, extra).map(Wanted::Jail)
}

fn arguments(given: &HashMap<String, Vec<String>>, extra: Vec<String>) -> Result<Arguments, String> {
    let one = |name: &str| given.get(name).and_then(|values| values.first());
    let required = |name: &str| one(name).ok_or(format!("Argument '{name}' required, but not found."));
    let number = |name: &str| {
        let text = required(name)?;
        text.parse().map_err(|_| format!("Invalid {name}: {text}"))
    };
    for name in ["cgroup", "parent-cgroup"] {
        if given.contains_key(name) {
            return Err(format!("The stand-in makes no cgroups, and was given '{name}'."));
        }
    }
    let id = required("id")?;
    if id.len() > ID_CHARS_MAX || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(format!("Invalid instance ID: {id}"));
    }
    let (mut no_file, mut fsize) = (NO_FILE_DEFAULT, None);
    for text in given.get("resource-limit").into_iter().flatten() {
        let invalid = || format!("Invalid format for resources limits: {text}");
        let (name, value) = text.split_once('=').ok_or_else(invalid)?;
        let value: u64 = value.parse().map_err(|_| invalid())?;
        match name {
            "no-file" => no_file = value,
            "fsize" => fsize = Some(value),
            _ => return Err(format!("Invalid resource argument: {name}")),
        }
    }
    Ok(Arguments {
        id: id.clone(),
        exec_file: required("exec-file")?.into(),
        uid: number("uid")?,
        gid: number("gid")?,
        chroot_base: one("chroot-base-dir").map_or("/srv/jailer".into(), PathBuf::from),
        netns: one("netns").map(PathBuf::from),
        daemonize: given.contains_key("daemonize"),
        new_pid_ns: given.contains_key("new-pid-ns"),
        no_file,
        fsize,
        extra,
    })
}
