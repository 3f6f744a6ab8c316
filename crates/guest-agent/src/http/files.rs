//! `/v1/files` and `/v1/dir`.

use std::fs::Metadata;
use std::io;
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

use super::body::{self, Body, Query, empty, json};
use crate::agent::Agent;
use crate::error::ApiError;
use crate::sys;

const READ_BYTES: usize = 64 * 1024;
const MODE_DEFAULT: &str = "0644";
const ENTRIES_MAX: usize = 100_000;

pub async fn route(agent: &Agent, method: &Method, query: &Query, body: Incoming) -> Result<Response<Body>, ApiError> {
    let path = path_of(agent, query)?;
    match *method {
        Method::GET => read(&path).await,
        Method::PUT => {
            let mode = query.get("mode").unwrap_or(MODE_DEFAULT);
            let mode = u32::from_str_radix(mode, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777)
                .ok_or_else(|| ApiError::bad_request("bad_request", format!("{mode} is no octal mode")))?;
            write(&path, mode, body).await
        }
        Method::DELETE => remove(&path, query.flag("recursive")).await,
        _ => Err(super::no_such_route(method, "/v1/files")),
    }
}

/// A relative path is taken from the image's working directory.
fn path_of(agent: &Agent, query: &Query) -> Result<PathBuf, ApiError> {
    let path = query.required("path")?;
    if path.contains('\0') {
        return Err(ApiError::bad_request("bad_path", "a path has no NUL byte"));
    }
    Ok(Path::new(agent.config().workdir()).join(path))
}

fn failed<'a>(what: &'a str, path: &'a Path) -> impl Fn(io::Error) -> ApiError + 'a {
    move |error| ApiError::io(format_args!("{what} {}", path.display()), &error)
}

fn octal(metadata: &Metadata) -> String {
    format!("{:04o}", metadata.mode() & 0o7777)
}

async fn read(path: &Path) -> Result<Response<Body>, ApiError> {
    // Without O_NONBLOCK the opening of a FIFO would wait for its writer.
    let mut options = fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).await.map_err(failed("read", path))?;
    let metadata = file.metadata().await.map_err(failed("read", path))?;
    if metadata.is_dir() {
        let message = format!("{} is a directory", path.display());
        return Err(ApiError::bad_request("is_a_directory", message));
    }
    if !metadata.is_file() {
        let message = format!("{} is no regular file", path.display());
        return Err(ApiError::bad_request("not_a_file", message));
    }
    // Files of /proc and /sys say that they are empty, and are not.
    let length = Some(metadata.len()).filter(|length| *length > 0);
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

/// A file being written, which goes away again unless it is put in its place.
struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn write(path: &Path, mode: u32, mut body: Incoming) -> Result<Response<Body>, ApiError> {
    // Through a link its target is written, as any program would.
    let target = fs::canonicalize(path).await.unwrap_or_else(|_| path.to_owned());
    if target.is_dir() {
        let message = format!("{} is a directory", path.display());
        return Err(ApiError::bad_request("is_a_directory", message));
    }
    let (Some(folder), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(ApiError::bad_request("bad_path", "the path names no file"));
    };
    fs::create_dir_all(folder)
        .await
        .map_err(failed("create the folder of", path))?;
    // The name of the temporary file is not made from the target's, which may be as long as names can be.
    let temporary_path = folder.join(format!(".forkd-{:016x}", u64::from_le_bytes(sys::random())));
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
    file.set_permissions(std::fs::Permissions::from_mode(mode))
        .await
        .map_err(failed("set the mode of", path))?;
    fs::rename(&temporary_path, folder.join(name))
        .await
        .map_err(failed("write", path))?;
    temporary.0.take();
    Ok(empty())
}

async fn remove(path: &Path, recursive: bool) -> Result<Response<Body>, ApiError> {
    let resolved = fs::canonicalize(path).await.unwrap_or_default();
    if resolved == Path::new("/") {
        return Err(ApiError::bad_request("bad_path", "the root is not removed"));
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

#[derive(Serialize)]
struct Entry {
    name: String,
    r#type: &'static str,
    size: u64,
    mode: String,
    mtime_unix: i64,
}

pub async fn list(agent: &Agent, query: &Query) -> Result<Response<Body>, ApiError> {
    let path = path_of(agent, query)?;
    let mut folder = fs::read_dir(&path).await.map_err(failed("list", &path))?;
    let mut entries = Vec::new();
    while let Some(found) = folder.next_entry().await.map_err(failed("list", &path))? {
        // One that has gone since is no entry any more.
        let Ok(metadata) = found.metadata().await else {
            continue;
        };
        if entries.len() == ENTRIES_MAX {
            let message = format!("{} has over {ENTRIES_MAX} entries", path.display());
            return Err(ApiError::bad_request("too_many_entries", message));
        }
        entries.push(Entry {
            name: found.file_name().to_string_lossy().into_owned(),
            r#type: type_of(&metadata),
            size: metadata.len(),
            mode: octal(&metadata),
            mtime_unix: metadata.mtime(),
        });
    }
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(json(StatusCode::OK, &entries))
}

fn type_of(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_dir() {
        "dir"
    } else if kind.is_symlink() {
        "symlink"
    } else if kind.is_file() {
        "file"
    } else {
        "other"
    }
}
