//! The terminal of a command: a pseudo-terminal, whose program side is stdin, stdout and stderr of the command.

use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe;
use ts_rs::TS;

use crate::error::{ApiError, ErrorCode};
use crate::sys;

const ROWS_MAX: u16 = 500;
const COLS_MAX: u16 = 1000;

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, TS)]
#[serde(deny_unknown_fields)]
#[ts(export_to = "agent-wire.ts", rename = "PtySize")]
pub struct Size {
    pub rows: u16,
    pub cols: u16,
}

impl Size {
    pub fn check(self) -> Result<Size, ApiError> {
        if (1..=ROWS_MAX).contains(&self.rows) && (1..=COLS_MAX).contains(&self.cols) {
            return Ok(self);
        }
        let Size { rows, cols } = self;
        let message = format!("a terminal of {cols} columns and {rows} rows: 1 to {COLS_MAX}, and 1 to {ROWS_MAX}");
        Err(ApiError::bad_request(ErrorCode::BadRequest, message))
    }
}

/// Our side of a terminal.
pub struct Pty {
    master: OwnedFd,
}

/// The parts of a terminal that a command is started with: our side, the program's side, and the bytes in both directions.
pub struct Opened {
    pub pty: Pty,
    pub program: OwnedFd,
    pub output: pipe::Receiver,
    pub input: pipe::Sender,
}

impl Pty {
    /// Opens a terminal that belongs to a user, who may then open it by its name, too.
    pub fn open(size: Size, uid: u32) -> io::Result<Opened> {
        let (master, program) = sys::pty()?;
        sys::set_window_size(&master, size.rows, size.cols)?;
        if uid != sys::uid() {
            sys::set_owner(&program, uid)?;
        }
        Ok(Opened {
            output: pipe::Receiver::from_owned_fd_unchecked(master.try_clone()?)?,
            input: pipe::Sender::from_owned_fd_unchecked(master.try_clone()?)?,
            pty: Pty { master },
            program,
        })
    }

    /// Sets the size. Programs in the foreground are told even if it is the same one, so that they draw their screen again.
    pub fn resize(&self, size: Size) -> io::Result<()> {
        sys::set_window_size(&self.master, size.rows, size.cols)?;
        if let Some(group) = self.foreground_group() {
            // A group that has ended meanwhile draws nothing.
            let _ = sys::kill_group(group, libc::SIGWINCH);
        }
        Ok(())
    }

    /// The process group that what is typed goes to.
    pub fn foreground_group(&self) -> Option<u32> {
        sys::foreground_group(&self.master)
    }
}
