//! Reads the server name from the first bytes of a TLS client.
//!
//! The server must not be able to read another name than this reader: whatever is not strictly well formed is malformed.

/// Bytes within which a ClientHello must end.
pub const HELLO_BYTES_MAX: usize = 16_000;
/// Records over which a ClientHello may be spread.
const RECORDS_MAX: usize = 16;

const RECORD_HANDSHAKE: u8 = 22;
const RECORD_BYTES_MAX: usize = 1 << 14;
const MESSAGE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
const NAME_TYPE_HOST: u8 = 0;

/// The kind of the first bytes of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Opening {
    /// More bytes are needed to tell.
    Incomplete,
    NotTls,
    /// A TLS record that does not begin a well-formed ClientHello.
    Malformed,
    Hello {
        /// The name in lower case.
        server_name: Option<String>,
        /// True if the client sends a second, encrypted ClientHello.
        is_encrypted: bool,
    },
}

/// Reads the bytes that a client has sent so far.
pub fn read(bytes: &[u8]) -> Opening {
    // A record begins with its type and the version's high byte.
    match bytes {
        [] | [RECORD_HANDSHAKE] => return Opening::Incomplete,
        [RECORD_HANDSHAKE, 3, ..] => {}
        _ => return Opening::NotTls,
    }
    match message(bytes) {
        Ok(Some(body)) => hello(&body).unwrap_or(Opening::Malformed),
        Ok(None) if bytes.len() < HELLO_BYTES_MAX => Opening::Incomplete,
        Ok(None) | Err(Malformed) => Opening::Malformed,
    }
}

struct Malformed;

/// The body of the ClientHello, put together from its records. `None` if it is not complete.
fn message(bytes: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut rest = Reader(bytes);
    let mut message = Vec::new();
    for _ in 0..RECORDS_MAX {
        let (Some(kind), Some(major), Some(_minor), Some(length)) =
            (rest.byte(), rest.byte(), rest.byte(), rest.word())
        else {
            return Ok(None);
        };
        let length = usize::from(length);
        if kind != RECORD_HANDSHAKE || major != 3 || length == 0 || length > RECORD_BYTES_MAX {
            return Err(Malformed);
        }
        let part = rest.take(length.min(rest.0.len())).unwrap_or_default();
        message.extend_from_slice(part);
        if message.first().is_some_and(|kind| *kind != MESSAGE_CLIENT_HELLO) {
            return Err(Malformed);
        }
        if let [_, high, middle, low, ..] = message[..] {
            let end = 4 + (usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low));
            if end > HELLO_BYTES_MAX {
                return Err(Malformed);
            }
            if message.len() >= end {
                // The client must wait for the server here, so nothing may follow in the record.
                return if message.len() == end && part.len() == length {
                    Ok(Some(message.split_off(4)))
                } else {
                    Err(Malformed)
                };
            }
        }
        if part.len() < length {
            return Ok(None);
        }
    }
    Err(Malformed)
}

/// Reads a ClientHello; `None` if it is malformed.
fn hello(body: &[u8]) -> Option<Opening> {
    let mut rest = Reader(body);
    let _version_and_random = rest.take(2 + 32)?;
    let _session = rest.short_vector()?;
    let _ciphers = rest.vector()?;
    let _compressions = rest.short_vector()?;
    let (mut server_name, mut is_encrypted) = (None, false);
    if !rest.is_empty() {
        let mut extensions = Reader(rest.vector()?);
        let mut seen = Vec::new();
        while !extensions.is_empty() {
            let kind = extensions.word()?;
            let content = extensions.vector()?;
            if seen.contains(&kind) {
                return None;
            }
            seen.push(kind);
            match kind {
                EXTENSION_SERVER_NAME => server_name = Some(host_name(content)?),
                EXTENSION_ENCRYPTED_CLIENT_HELLO => is_encrypted = true,
                _ => {}
            }
        }
    }
    rest.is_empty().then_some(Opening::Hello {
        server_name,
        is_encrypted,
    })
}

/// The only name of the extension.
fn host_name(content: &[u8]) -> Option<String> {
    let mut content = Reader(content);
    let mut list = Reader(content.vector()?);
    let kind = list.byte()?;
    let name = list.vector()?;
    let is_plain = kind == NAME_TYPE_HOST && name.is_ascii() && list.is_empty() && content.is_empty();
    is_plain.then(|| String::from_utf8_lossy(name).to_ascii_lowercase())
}

/// Takes values from the front of a slice.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn word(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A vector whose length takes one byte.
    fn short_vector(&mut self) -> Option<&'a [u8]> {
        let length = self.byte()?;
        self.take(length.into())
    }

    /// A vector whose length takes two bytes.
    fn vector(&mut self) -> Option<&'a [u8]> {
        let length = self.word()?;
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests;
