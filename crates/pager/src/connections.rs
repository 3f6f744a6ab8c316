//! The pager's connections to a running VM.

use crate::bridge::Bridge;
use crate::control::{Control, PATIENCE};
use crate::error::Result;
use crate::firecracker::Api;
use crate::monitor::Monitor;
use forkd_protocol::{Announce, VmmKind};
use std::time::Instant;

#[derive(Debug)]
pub struct Connections {
    pub control: Box<dyn Control>,
    pub bridge: Bridge,
}

impl Connections {
    /// Connects to a VM, within [`PATIENCE`]. The VM is then stopped if `paused` is true, else it runs.
    pub fn open(announced: &Announce, paused: bool) -> Result<Connections> {
        let Announce {
            monitor_socket,
            chardev_socket,
            agent_socket,
            ..
        } = announced;
        let until = Instant::now() + PATIENCE;
        let mut control: Box<dyn Control> = match announced.vmm {
            VmmKind::Qemu => Box::new(Monitor::connect(monitor_socket, PATIENCE)?),
            VmmKind::Firecracker => Box::new(Api::connect(monitor_socket, PATIENCE)?),
        };
        if paused {
            control.stop()?;
        } else {
            control.run_if_stopped()?;
        }
        let bridge = match announced.vmm {
            VmmKind::Qemu => Bridge::open(chardev_socket, agent_socket, until)?,
            VmmKind::Firecracker => Bridge::dialling(chardev_socket, agent_socket)?,
        };
        Ok(Connections { control, bridge })
    }
}
