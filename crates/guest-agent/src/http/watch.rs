//! `/v1/watch`: a stream of frames as that of a command's output: 0 a change (JSON), 1 why the stream ends early (JSON).

use std::path::Path;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use hyper::Response;
use serde::Serialize;
use ts_rs::TS;

use super::Failure;
use super::body::{self, Body, Name, Query, json_frame};
use super::files::path_of;
use crate::agent::Agent;
use crate::error::ApiError;
use crate::watch::{Change, Watch};

const CHANGE: u8 = 0;
const ERROR: u8 = 1;

#[derive(Serialize, TS)]
#[serde(tag = "type", rename_all = "snake_case")]
#[ts(export_to = "agent-wire.ts")]
pub enum FileChange {
    Create { path: Name },
    Modify { path: Name },
    Remove { path: Name },
    Rename { path: Name, to: Name },
    Overflow,
}

/// Streams what happens at a path. The reply begins once everything that happens from then on is in the stream.
pub async fn watch(agent: &Agent, query: &Query) -> Result<Response<Body>, ApiError> {
    let path = path_of(agent, query)?;
    let permit = agent.watch_permit()?;
    let watch = Watch::begin(path, query.flag("recursive")).await?;
    let frames = stream::unfold(Some((watch, permit)), |watching| async move {
        let (mut watch, permit) = watching?;
        match watch.next().await? {
            Ok(changes) => Some((Ok(frames_of(&changes)), Some((watch, permit)))),
            Err(error) => {
                let failure = Failure {
                    error: error.message,
                    code: error.code,
                };
                Some((Ok(json_frame(ERROR, &failure)), None))
            }
        }
    });
    Ok(body::stream(frames))
}

fn frames_of(changes: &[Change]) -> Bytes {
    let frames = changes.iter().map(|change| json_frame(CHANGE, &told(change)));
    frames
        .fold(BytesMut::new(), |mut all, frame| {
            all.extend_from_slice(&frame);
            all
        })
        .freeze()
}

fn told(change: &Change) -> FileChange {
    let name = |path: &Path| Name::of(path.as_os_str());
    match change {
        Change::Create(path) => FileChange::Create { path: name(path) },
        Change::Modify(path) => FileChange::Modify { path: name(path) },
        Change::Remove(path) => FileChange::Remove { path: name(path) },
        Change::Rename { from, to } => FileChange::Rename {
            path: name(from),
            to: name(to),
        },
        Change::Overflow => FileChange::Overflow,
    }
}
