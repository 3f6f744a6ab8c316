//! Answers to requests.

use serde::Serialize;

pub struct Answer {
    status: u16,
    body: Option<String>,
    /// The process ends once the answer is sent, for this reason.
    pub ends: Option<String>,
}

impl Answer {
    pub fn done() -> Answer {
        Answer {
            status: 204,
            body: None,
            ends: None,
        }
    }

    pub fn json(value: &impl Serialize) -> Answer {
        Answer {
            status: 200,
            body: Some(serde_json::to_string(value).expect("plain data")),
            ends: None,
        }
    }

    /// A refusal, in the shape of Firecracker's errors.
    pub fn refused(why: impl Into<String>) -> Answer {
        let body = serde_json::json!({ "fault_message": why.into() });
        Answer {
            status: 400,
            body: Some(body.to_string()),
            ends: None,
        }
    }

    /// A refusal after which the process cannot continue.
    pub fn fatal(why: impl Into<String>) -> Answer {
        let why = why.into();
        Answer {
            ends: Some(why.clone()),
            ..Answer::refused(why)
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            204 => "No Content",
            _ => "Bad Request",
        };
        let head = format!(
            "HTTP/1.1 {} {reason}\r\nServer: Firecracker API\r\nConnection: keep-alive\r\n",
            self.status
        );
        match &self.body {
            None => format!("{head}\r\n"),
            Some(body) => format!(
                "{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
        }
        .into_bytes()
    }
}
