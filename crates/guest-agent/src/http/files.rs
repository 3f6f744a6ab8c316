//! `/v1/files`, `/v1/dir`, `/v1/stat` and `/v1/rename`.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Response, StatusCode, header};
use serde::Serialize;
use tokio::fs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use ts_rs::TS;

use super::body::{self, Body, Name, Query, empty, json};
use crate::agent::Agent;
use crate::command::users;
use crate::error::{ApiError, ErrorCode};
use crate::sys;

const READ_BYTES: usize = 64 * 1024;
const MODE_DEFAULT: &str = "0644";
const DIR_MODE_DEFAULT: &str = "0755";
/// Mode of the directories that are made for a file, before the agent's umask.
const DIR_MODE_OF_PARENTS: u32 = 0o777;
const ENTRIES_MAX: usize = 100_000;
/// Symbolic links that are followed one after the other, as many as the kernel follows.
const LINKS_MAX: usize = 40;
const TEMPORARY_PREFIX: &str = ".forkd-";
const TEMPORARY_HEX_DIGITS: usize = 16;

pub async fn route(agent: &Agent, method: &Method, query: &Query, body: Incoming) -> Result<Response<Body>, ApiError> {
    let path = path_of(agent, query)?;
    match *method {
        Method::GET => read(&path).await,
        Method::PUT => write(&path, mode_of(query, MODE_DEFAULT)?, owner_of(query)?, body).await,
        Method::DELETE => remove(&path, query.flag("recursive")).await,
        _ => Err(super::no_such_route(method, "/v1/files")),
    }
}

/// A relative path is taken from the image's working directory.
pub fn path_of(agent: &Agent, query: &Query) -> Result<PathBuf, ApiError> {
    path_in(agent, query, "path")
}

fn path_in(agent: &Agent, query: &Query, parameter: &str) -> Result<PathBuf, ApiError> {
    let path = query.required(parameter)?;
    if path.contains(&0) {
        return Err(ApiError::bad_request(ErrorCode::BadPath, "a path has no NUL byte"));
    }
    Ok(Path::new(agent.config().workdir()).join(OsStr::from_bytes(path)))
}

fn failed<'a>(what: &'a str, path: &'a Path) -> impl Fn(io::Error) -> ApiError + 'a {
    move |error| ApiError::io(format_args!("{what} {}", path.display()), &error)
}

fn mode_of(query: &Query, default: &str) -> Result<u32, ApiError> {
    let mode = query.get("mode").unwrap_or(default);
    u32::from_str_radix(mode, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| ApiError::bad_request(ErrorCode::BadRequest, format!("{mode} is no octal mode")))
}

/// The user and group that new files and directories belong to. Absent: those of the agent.
type Owner = Option<(u32, u32)>;

fn owner_of(query: &Query) -> Result<Owner, ApiError> {
    let Some(name) = query.get("user") else {
        return Ok(None);
    };
    let user = users::find(Some(name))?;
    Ok(Some((user.uid, user.gid)))
}

/// Makes a directory and those that lead to it. Those that are new belong to `owner`.
async fn make_dirs(path: &Path, mode: u32, owner: Owner) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(mode).create(path).await?;
    if let Some((uid, gid)) = owner {
        for folder in missing {
            std::os::unix::fs::lchown(folder, Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

fn octal(metadata: &Metadata) -> String {
    format!("{:04o}", metadata.mode() & 0o7777)
}

async fn read(path: &Path) -> Result<Response<Body>, ApiError> {
    // O_NONBLOCK keeps the opening of a FIFO from waiting for its writer.
    let mut options = fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).await.map_err(failed("read", path))?;
    let metadata = file.metadata().await.map_err(failed("read", path))?;
    if metadata.is_dir() {
        let message = format!("{} is a directory", path.display());
        return Err(ApiError::bad_request(ErrorCode::IsADirectory, message));
    }
    if !metadata.is_file() {
        return Err(no_regular_file(path));
    }
    // The sizes of files that have no blocks may lie: of /proc they are zero, of /sys a page.
    let length = Some(metadata.len()).filter(|_| metadata.blocks() > 0);
    let left = length.unwrap_or(u64::MAX);
    let chunks = stream::unfold((file, left), move |(mut file, left)| async move {
        let mut chunk = BytesMut::zeroed(READ_BYTES.min(usize::try_from(left).unwrap_or(READ_BYTES)));
        match file.read(&mut chunk).await {
            // An empty chunk asks for nothing: the length promised has been given.
            Ok(0) if left == 0 || length.is_none() => None,
            Ok(0) => {
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the file was cut short");
                Some((Err(error), (file, 0)))
            }
            Ok(count) => {
                chunk.truncate(count);
                Some((Ok(chunk.freeze()), (file, left - count as u64)))
            }
            Err(error) => Some((Err(error), (file, 0))),
        }
    });
    let mut response = body::stream(chunks);
    let headers = response.headers_mut();
    let mode = header::HeaderValue::from_str(&octal(&metadata)).expect("digits");
    headers.insert("x-mode", mode);
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    Ok(response)
}

fn no_regular_file(path: &Path) -> ApiError {
    ApiError::bad_request(ErrorCode::NotAFile, format!("{} is no regular file", path.display()))
}

/// The path behind all symbolic links, even if nothing is there yet.
fn behind_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(link) = std::fs::read_link(&path) else {
            return Ok(path);
        };
        path = path.parent().unwrap_or(Path::new("/")).join(link);
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// The name is not made from the target's, which may be as long as names can be.
fn temporary_name() -> String {
    let number = u64::from_le_bytes(sys::random());
    format!("{TEMPORARY_PREFIX}{number:0TEMPORARY_HEX_DIGITS$x}")
}

/// Whether this is the name of a file that is being written.
pub fn is_temporary(name: &OsStr) -> bool {
    let digits = name.to_str().and_then(|name| name.strip_prefix(TEMPORARY_PREFIX));
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    digits.is_some_and(|digits| digits.len() == TEMPORARY_HEX_DIGITS && digits.bytes().all(hex))
}

/// A file being written, which goes away again unless it is put in its place.
struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn write(path: &Path, mode: u32, owner: Owner, mut body: Incoming) -> Result<Response<Body>, ApiError> {
    // Through a link its target is written, as any program would.
    let target = behind_links(path).map_err(failed("write", path))?;
    let replaced = match fs::metadata(&target).await {
        Ok(metadata) if metadata.is_dir() => {
            let message = format!("{} is a directory", path.display());
            return Err(ApiError::bad_request(ErrorCode::IsADirectory, message));
        }
        Ok(metadata) if !metadata.is_file() => return Err(no_regular_file(path)),
        Ok(metadata) => Some(metadata),
        Err(_) => None,
    };
    let (Some(folder), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(ApiError::bad_request(ErrorCode::BadPath, "the path names no file"));
    };
    make_dirs(folder, DIR_MODE_OF_PARENTS, owner)
        .await
        .map_err(failed("create the folder of", path))?;
    let temporary_path = folder.join(temporary_name());
    let mut temporary = Temporary(Some(temporary_path.clone()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary_path)
        .await
        .map_err(failed("write", path))?;
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame.map_err(body::broken)?.into_data() {
            file.write_all(&bytes).await.map_err(failed("write", path))?;
        }
    }
    file.flush().await.map_err(failed("write", path))?;
    // A file that is replaced keeps its owner and its mode.
    if let Some((uid, gid)) = replaced.as_ref().map(|file| (file.uid(), file.gid())).or(owner) {
        std::os::unix::fs::chown(&temporary_path, Some(uid), Some(gid)).map_err(failed("set the owner of", path))?;
    }
    let mode = replaced.as_ref().map_or(mode, |replaced| replaced.mode() & 0o7777);
    file.set_permissions(std::fs::Permissions::from_mode(mode))
        .await
        .map_err(failed("set the mode of", path))?;
    let place = folder.join(name);
    if replaced.is_some_and(|replaced| replaced.nlink() > 1) {
        // The other names of the file keep naming it.
        fs::copy(&temporary_path, &place).await.map_err(failed("write", path))?;
        return Ok(empty());
    }
    fs::rename(&temporary_path, &place)
        .await
        .map_err(failed("write", path))?;
    temporary.0.take();
    Ok(empty())
}

/// Makes a directory, and those that lead to it. One that exists stays as it is.
pub async fn make_dir(agent: &Agent, query: &Query) -> Result<Response<Body>, ApiError> {
    let path = path_of(agent, query)?;
    let (mode, owner) = (mode_of(query, DIR_MODE_DEFAULT)?, owner_of(query)?);
    make_dirs(&path, mode, owner).await.map_err(failed("make", &path))?;
    Ok(empty())
}

/// Renames a file or a directory. A file in the new place is replaced.
pub async fn rename(agent: &Agent, query: &Query) -> Result<Response<Body>, ApiError> {
    let (from, to) = (path_of(agent, query)?, path_in(agent, query, "to")?);
    fs::rename(&from, &to).await.map_err(failed("rename", &from))?;
    Ok(empty())
}

async fn remove(path: &Path, recursive: bool) -> Result<Response<Body>, ApiError> {
    let resolved = fs::canonicalize(path).await.unwrap_or_default();
    if resolved == Path::new("/") {
        return Err(ApiError::bad_request(ErrorCode::BadPath, "the root is not removed"));
    }
    let metadata = fs::symlink_metadata(path).await.map_err(failed("remove", path))?;
    let removed = match (metadata.is_dir(), recursive) {
        (false, _) => fs::remove_file(path).await,
        (true, false) => fs::remove_dir(path).await,
        (true, true) => fs::remove_dir_all(path).await,
    };
    removed.map_err(failed("remove", path))?;
    Ok(empty())
}

#[derive(Serialize, TS)]
#[ts(export_to = "agent-wire.ts")]
pub struct Entry {
    name: Name,
    #[serde(flatten)]
    stat: Stat,
}

#[derive(Serialize, TS)]
struct Facts {
    r#type: FileType,
    size: u64,
    /// Octal digits.
    mode: String,
    mtime_unix: i64,
}

#[derive(Serialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export_to = "agent-wire.ts")]
enum FileType {
    File,
    Dir,
    Symlink,
    Other,
}

impl Facts {
    fn of(metadata: &Metadata) -> Facts {
        Facts {
            r#type: type_of(metadata),
            size: metadata.len(),
            mode: octal(metadata),
            mtime_unix: metadata.mtime(),
        }
    }
}

#[derive(Serialize, TS)]
#[ts(export_to = "agent-wire.ts")]
pub struct Stat {
    #[serde(flatten)]
    facts: Facts,
    uid: u32,
    gid: u32,
    /// The path that a symbolic link holds.
    target: Option<Name>,
}

impl Stat {
    fn of(metadata: &Metadata, target: Option<PathBuf>) -> Stat {
        Stat {
            facts: Facts::of(metadata),
            uid: metadata.uid(),
            gid: metadata.gid(),
            target: target.map(|target| Name::of(target.as_os_str())),
        }
    }
}

/// Describes one path: with `follow` what is behind symbolic links, otherwise a link itself.
pub async fn stat(agent: &Agent, query: &Query) -> Result<Response<Body>, ApiError> {
    let path = path_of(agent, query)?;
    let (metadata, target) = if query.flag("follow") {
        (fs::metadata(&path).await, None)
    } else {
        (fs::symlink_metadata(&path).await, fs::read_link(&path).await.ok())
    };
    let metadata = metadata.map_err(failed("stat", &path))?;
    Ok(json(StatusCode::OK, &Stat::of(&metadata, target)))
}

pub async fn list(agent: &Agent, query: &Query) -> Result<Response<Body>, ApiError> {
    let path = path_of(agent, query)?;
    let mut folder = fs::read_dir(&path).await.map_err(failed("list", &path))?;
    let mut entries = Vec::new();
    while let Some(found) = folder.next_entry().await.map_err(failed("list", &path))? {
        // A file that is being written has no name yet. An entry that has been removed since is skipped.
        if is_temporary(&found.file_name()) {
            continue;
        }
        let Ok(metadata) = found.metadata().await else {
            continue;
        };
        if entries.len() == ENTRIES_MAX {
            let message = format!("{} has over {ENTRIES_MAX} entries", path.display());
            return Err(ApiError::bad_request(ErrorCode::TooManyEntries, message));
        }
        let target = if metadata.is_symlink() {
            fs::read_link(found.path()).await.ok()
        } else {
            None
        };
        entries.push((found.file_name(), Stat::of(&metadata, target)));
    }
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    let entries: Vec<_> = entries
        .into_iter()
        .map(|(name, stat)| Entry {
            name: Name::of(&name),
            stat,
        })
        .collect();
    Ok(json(StatusCode::OK, &entries))
}

fn type_of(metadata: &Metadata) -> FileType {
    let kind = metadata.file_type();
    if kind.is_dir() {
        FileType::Dir
    } else if kind.is_symlink() {
        FileType::Symlink
    } else if kind.is_file() {
        FileType::File
    } else {
        FileType::Other
    }
}
