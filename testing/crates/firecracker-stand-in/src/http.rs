//! The part of HTTP/1.1 that Firecracker's server speaks.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;

/// A request's body is at most this long.
const BODY_BYTES_MAX: usize = 51_200;
/// A header's line is at most this long.
const LINE_BYTES_MAX: u64 = 8_192;

pub struct Request {
    pub method: String,
    pub path: String,
    pub body: Vec<u8>,
}

pub struct Reader {
    input: BufReader<UnixStream>,
}

impl Reader {
    pub fn new(stream: UnixStream) -> Reader {
        Reader {
            input: BufReader::new(stream),
        }
    }

    /// The next request; `None` at the end of the connection.
    pub fn next(&mut self) -> Result<Option<Request>, String> {
        let Some(first) = self.line() else { return Ok(None) };
        let mut words = first.split(' ');
        let (Some(method), Some(path), Some("HTTP/1.1" | "HTTP/1.0")) = (words.next(), words.next(), words.next())
        else {
            return Err("Invalid HTTP request line.".into());
        };
        let mut length = 0;
        loop {
            let Some(line) = self.line() else { return Ok(None) };
            if line.is_empty() {
                break;
            }
            let Some((name, value)) = line.split_once(':') else {
                return Err("Invalid HTTP header.".into());
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value
                    .trim()
                    .parse()
                    .map_err(|_| "Invalid Content-Length.".to_string())?;
            }
        }
        if length > BODY_BYTES_MAX {
            return Err(format!(
                "Request payload with size {length} is larger than the limit of {BODY_BYTES_MAX} allowed by server."
            ));
        }
        let mut body = vec![0; length];
        if self.input.read_exact(&mut body).is_err() {
            return Ok(None);
        }
        Ok(Some(Request {
            method: method.into(),
            path: path.into(),
            body,
        }))
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let mut limited = Read::take(&mut self.input, LINE_BYTES_MAX);
        match limited.read_line(&mut line) {
            Ok(1..) if line.ends_with('\n') => Some(line.trim_end_matches(['\r', '\n']).into()),
            _ => None,
        }
    }
}
