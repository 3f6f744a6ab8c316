//! The wall clock, which stands still while the machine is paused.

use std::time::Duration;

use serde::Deserialize;
use ts_rs::TS;

use crate::error::{ApiError, ErrorCode};
use crate::sys;

#[derive(Deserialize, TS)]
#[serde(deny_unknown_fields)]
#[ts(export_to = "agent-wire.ts", rename = "ClockRequest")]
pub struct Request {
    /// A decimal number.
    wall_clock_unix_ns: String,
}

impl Request {
    /// Sets the clock, if this process may: on a developer's host it only checks the request.
    pub fn apply(&self, owns_machine: bool) -> Result<(), ApiError> {
        let wall_clock = since_epoch(&self.wall_clock_unix_ns)?;
        if !owns_machine {
            return Ok(());
        }
        sys::set_wall_clock(wall_clock).map_err(|error| ApiError::io("set the clock", &error))
    }
}

/// The time of a decimal number of nanoseconds since 1970.
pub fn since_epoch(unix_ns: &str) -> Result<Duration, ApiError> {
    let nanos = unix_ns.parse().map(Duration::from_nanos);
    nanos.map_err(|_| {
        let message = "wall_clock_unix_ns must be a decimal number of nanoseconds";
        ApiError::bad_request(ErrorCode::BadRequest, message)
    })
}
