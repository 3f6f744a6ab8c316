//! Users and groups, from the guest's /etc/passwd and /etc/group.

use crate::error::{ApiError, ErrorCode};
use crate::{root_files, sys};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Name and home, where the user has an entry.
    pub name: Option<String>,
    pub home: String,
    /// The program of a login, where the entry names one.
    pub shell: Option<String>,
}

/// Finds `name`, `uid`, `name:group` or `uid:gid`. Absent: whom the agent runs as, which in a guest is root.
pub fn find(user: Option<&str>) -> Result<User, ApiError> {
    // A root file system may have no accounts at all, and still everybody expects root. The file's own entry comes first.
    let passwd = text_of("/etc/passwd") + "\nroot:x:0:0:root:/root:/bin/sh\n";
    let group = text_of("/etc/group") + "\nroot:x:0:\n";
    let own = sys::uid().to_string();
    let spec = user.filter(|spec| !spec.is_empty()).unwrap_or(&own);
    resolve(spec, &passwd, &group)
        .ok_or_else(|| ApiError::bad_request(ErrorCode::UnknownUser, format!("no user is called {spec}")))
}

/// A byte that is not UTF-8, as in a full name, must not hide the other entries.
fn text_of(path: &str) -> String {
    String::from_utf8_lossy(&root_files::read(path)).into_owned()
}

fn resolve(spec: &str, passwd: &str, group: &str) -> Option<User> {
    let (who, primary) = match spec.split_once(':') {
        Some((who, primary)) => (who, Some(primary)),
        None => (spec, None),
    };
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|entry| entry.len() >= 6 && (entry[0] == who || entry[2] == who));
    let uid = match &entry {
        Some(entry) => entry[2].parse().ok()?,
        None => who.parse().ok()?,
    };
    let own_gid = match &entry {
        Some(entry) => entry[3].parse().ok()?,
        None => 0,
    };
    let gid = match primary {
        Some(primary) => find_group(primary, group)?,
        None => own_gid,
    };
    let name = entry.as_ref().map(|entry| entry[0].to_owned());
    let groups = match &name {
        Some(name) => groups_of(name, gid, group),
        None => vec![gid],
    };
    let home = entry.as_ref().map_or("/", |entry| entry[5]).trim().to_owned();
    let shell = entry
        .as_ref()
        .and_then(|entry| entry.get(6))
        .map(|shell| shell.trim().to_owned());
    Some(User {
        uid,
        gid,
        groups,
        home: if home.is_empty() { "/".into() } else { home },
        name,
        shell: shell.filter(|shell| !shell.is_empty()),
    })
}

fn find_group(who: &str, group: &str) -> Option<u32> {
    let entry = group
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|entry| entry.len() >= 3 && (entry[0] == who || entry[2] == who));
    match entry {
        Some(entry) => entry[2].parse().ok(),
        None => who.parse().ok(),
    }
}

fn groups_of(name: &str, gid: u32, group: &str) -> Vec<u32> {
    let mut groups = vec![gid];
    for line in group.lines() {
        let entry: Vec<_> = line.split(':').collect();
        let member = entry.len() >= 4 && entry[3].split(',').any(|member| member.trim() == name);
        if let (true, Some(Ok(id))) = (member, entry.get(2).map(|id| id.parse()))
            && !groups.contains(&id)
        {
            groups.push(id);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1001::/home/ada:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nada:x:1001:\nwheel:x:10:bob,ada\ndocker:x:11:ada\n";

    #[test]
    fn names_and_numbers() {
        let ada = User {
            uid: 1000,
            gid: 1001,
            groups: vec![1001, 10, 11],
            name: Some("ada".into()),
            home: "/home/ada".into(),
            shell: Some("/bin/sh".into()),
        };
        assert_eq!(resolve("ada", PASSWD, GROUP).as_ref(), Some(&ada));
        assert_eq!(resolve("1000", PASSWD, GROUP).as_ref(), Some(&ada));
        let wheel = resolve("ada:wheel", PASSWD, GROUP).expect("known");
        assert_eq!((wheel.gid, wheel.groups), (10, vec![10, 11]));
    }

    #[test]
    fn numbers_need_no_entry() {
        let user = resolve("4242:77", PASSWD, GROUP).expect("a number");
        assert_eq!((user.uid, user.gid, user.name), (4242, 77, None));
        assert_eq!(user.home, "/");
    }

    #[test]
    fn an_entry_that_is_not_utf8_hides_no_other() {
        let path = std::env::temp_dir().join(format!("forkd-passwd-{}", std::process::id()));
        let entries = [b"jose:x:7:7:Jos\xe9:/home/jose:/bin/sh\n".as_slice(), PASSWD.as_bytes()].concat();
        fs::write(&path, entries).expect("written");
        let passwd = text_of(path.to_str().expect("text"));
        fs::remove_file(&path).expect("removed");
        assert_eq!(resolve("ada", &passwd, GROUP).map(|user| user.uid), Some(1000));
        assert_eq!(resolve("jose", &passwd, GROUP).map(|user| user.uid), Some(7));
    }

    #[test]
    fn unknown_names_are_refused() {
        assert_eq!(resolve("eve", PASSWD, GROUP), None);
        assert_eq!(resolve("ada:nogroup", PASSWD, GROUP), None);
    }
}
