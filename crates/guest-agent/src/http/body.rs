//! Bodies of requests and responses.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use ts_rs::TS;

use crate::error::{ApiError, ErrorCode};

pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Longest JSON request.
const JSON_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The parameters after `?`. A value is bytes, since that of a path need not be UTF-8.
pub struct Query(Vec<(Vec<u8>, Vec<u8>)>);

impl Query {
    pub fn parse(query: Option<&str>) -> Query {
        let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).collect();
        let pairs = query.unwrap_or("").split('&');
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Query(pairs.map(|(name, value)| (decoded(name), decoded(value))).collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        str::from_utf8(self.bytes(name)?).ok()
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        let found = self.0.iter().find(|(key, _)| key == name.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }

    pub fn required(&self, name: &str) -> Result<&[u8], ApiError> {
        self.bytes(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| ApiError::bad_request(ErrorCode::BadRequest, format!("the parameter {name} is missing")))
    }

    pub fn flag(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }
}

/// The name of a file in JSON. As in Python's `surrogateescape`, U+DC00 plus the byte stands for each byte that is not UTF-8.
#[derive(Serialize, TS)]
#[ts(export_to = "agent-wire.ts", type = "string")]
pub struct Name(Box<RawValue>);

impl Name {
    pub fn of(name: &OsStr) -> Name {
        let mut json = String::from("\"");
        for chunk in name.as_bytes().utf8_chunks() {
            let quoted = serde_json::to_string(chunk.valid()).expect("a string serialises");
            json.push_str(&quoted[1..quoted.len() - 1]);
            for byte in chunk.invalid() {
                json.push_str(&format!("\\udc{byte:02x}"));
            }
        }
        json.push('"');
        Name(RawValue::from_string(json).expect("a JSON string"))
    }
}

pub fn empty() -> Response<Body> {
    let body = Empty::new().map_err(|never| match never {});
    respond(StatusCode::NO_CONTENT, body.boxed_unsync())
}

pub fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_vec(value).expect("the API's own types serialise");
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    let mut response = respond(status, body.boxed_unsync());
    let value = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

pub fn stream<S>(chunks: S) -> Response<Body>
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let body = StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data)));
    respond(StatusCode::OK, body.boxed_unsync())
}

/// A frame of a stream: `kind u8, length u32 LE, payload`.
pub fn frame(kind: u8, parts: &[&[u8]]) -> Bytes {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(kind);
    frame.put_u32_le(length as u32);
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame.freeze()
}

pub fn json_frame(kind: u8, value: &impl Serialize) -> Bytes {
    let text = serde_json::to_vec(value).expect("the API's own types serialise");
    frame(kind, &[&text])
}

fn respond(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

pub async fn json_of<T: DeserializeOwned>(body: Incoming) -> Result<T, ApiError> {
    let collected = Limited::new(body, JSON_BYTES_MAX).collect().await;
    let bytes = match collected {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("a JSON body is at most {JSON_BYTES_MAX} bytes");
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            return Err(ApiError::new(status, ErrorCode::BodyTooLarge, message));
        }
        Err(error) => return Err(broken(error)),
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request(ErrorCode::BadRequest, format!("bad JSON body: {error}")))
}

/// The request's body ended before its end.
pub fn broken(error: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request(ErrorCode::BodyBroken, format!("the body broke off: {error}"))
}
