//! Files of the root that the agent itself reads and writes. The root is an image's, and later its programs': where a file is
//! expected there may be a link to nowhere, a pipe, or bytes that are not UTF-8.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Linux follows as many.
const LINKS_MAX: usize = 40;
/// Account files of large sites have some megabytes.
const READ_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The content of a regular file; empty if there is none.
pub fn read(path: &str) -> Vec<u8> {
    let mut content = Vec::new();
    if let Ok(file) = open(Path::new(path), fs::OpenOptions::new().read(true)) {
        // A file that cannot be read counts as empty.
        let _ = file.take(READ_BYTES_MAX).read_to_end(&mut content);
    }
    content
}

/// Writes a file. A link is followed, to a place that need not exist; if that fails, the file takes the place of the link.
pub fn write(path: &str, content: impl AsRef<[u8]>) -> io::Result<()> {
    through_links(Path::new(path), |place| {
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut how = fs::OpenOptions::new();
        open(place, how.write(true).create(true).truncate(true))?.write_all(content.as_ref())
    })
}

/// Opens a regular file. A pipe would keep the agent waiting for its other end.
fn open(path: &Path, how: &mut fs::OpenOptions) -> io::Result<fs::File> {
    let file = how.custom_flags(libc::O_NONBLOCK).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Sees that a path leads to a directory. A link is followed, to a place that need not exist; if that fails, a directory takes
/// the place of what is there.
pub fn make_directory(path: &str) -> io::Result<()> {
    if Path::new(path).is_dir() {
        return Ok(());
    }
    through_links(Path::new(path), |place| fs::create_dir_all(place))
}

/// Sees that a path is a directory itself: of a root that is not entered yet, links lead elsewhere.
pub fn own_directory(path: &str) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => fs::remove_file(path)?,
        Err(_) => {}
    }
    fs::create_dir_all(path)
}

fn through_links(path: &Path, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    match destination(path).map(|place| make(&place)) {
        Some(Ok(())) => Ok(()),
        // Another place would have no more space.
        Some(Err(error)) if is_full(&error) => Err(error),
        _ => {
            // A directory that is not empty stays, and the error says so.
            let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
            make(path)
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The target of the links at a path, which need not exist. `None` if they lead in a circle.
fn destination(path: &Path) -> Option<PathBuf> {
    let mut place = path.to_owned();
    for _ in 0..=LINKS_MAX {
        match fs::read_link(&place) {
            Ok(target) => place = place.parent().unwrap_or(Path::new("/")).join(target),
            Err(_) => return Some(place),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("forkd-root-files-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("made");
        folder
    }

    fn text(path: &Path) -> &str {
        path.to_str().expect("UTF-8")
    }

    #[test]
    fn a_file_behind_a_link_is_written_even_where_nothing_is() {
        let folder = scratch("behind");
        let link = folder.join("hostname");
        symlink("data/etc/hostname", &link).expect("linked");
        write(text(&link), "a\n").expect("written");
        assert_eq!(fs::read(folder.join("data/etc/hostname")).expect("there"), b"a\n");
        assert!(link.is_symlink());
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn a_link_in_a_circle_a_pipe_and_an_empty_directory_are_replaced_by_a_file() {
        let folder = scratch("replaced");
        let [circle, pipe, directory] = ["circle", "pipe", "directory"].map(|name| folder.join(name));
        symlink("circle", &circle).expect("linked");
        let name = std::ffi::CString::new(text(&pipe)).expect("no NUL");
        // SAFETY: the name lives through the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        fs::create_dir(&directory).expect("made");
        assert_eq!(read(text(&pipe)), b"");
        for path in [circle, pipe, directory] {
            write(text(&path), "b\n").expect("written");
            assert_eq!(read(text(&path)), b"b\n");
            assert!(fs::symlink_metadata(&path).expect("there").is_file());
        }
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn a_directory_is_made_behind_links_to_nowhere() {
        let folder = scratch("directory");
        symlink("var/tmp", folder.join("tmp")).expect("linked");
        fs::create_dir(folder.join("var")).expect("made");
        symlink("volatile/tmp", folder.join("var/tmp")).expect("linked");
        make_directory(text(&folder.join("tmp"))).expect("made");
        assert!(folder.join("var/volatile/tmp").is_dir());
        fs::write(folder.join("run"), "").expect("written");
        make_directory(text(&folder.join("run"))).expect("made");
        assert!(folder.join("run").is_dir());
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn a_directory_of_its_own_is_never_behind_a_link() {
        let folder = scratch("own");
        symlink("/", folder.join("dev")).expect("linked");
        own_directory(text(&folder.join("dev"))).expect("made");
        assert!(fs::symlink_metadata(folder.join("dev")).expect("there").is_dir());
        fs::remove_dir_all(folder).expect("removed");
    }
}
