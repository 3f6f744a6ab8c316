//! The pager's connections to a VM that runs.

use crate::bridge::Bridge;
use crate::control::Control;
use crate::error::Result;
use crate::firecracker::Api;
use crate::monitor::Monitor;
use forkd_protocol::{Announce, VmmKind};

#[derive(Debug)]
pub struct Connections {
    pub control: Box<dyn Control>,
    pub bridge: Bridge,
}

impl Connections {
    /// Connects to a VM. It stands still afterwards if it is meant to be `paused`, else it runs.
    pub fn open(announced: &Announce, paused: bool) -> Result<Connections> {
        let Announce {
            monitor_socket,
            chardev_socket,
            agent_socket,
            ..
        } = announced;
        let mut control: Box<dyn Control> = match announced.vmm {
            VmmKind::Qemu => Box::new(Monitor::connect(monitor_socket)?),
            VmmKind::Firecracker => Box::new(Api::connect(monitor_socket)?),
        };
        if paused {
            control.stop()?;
        } else {
            control.run_if_stopped()?;
        }
        let bridge = match announced.vmm {
            VmmKind::Qemu => Bridge::open(chardev_socket, agent_socket)?,
            VmmKind::Firecracker => Bridge::dialling(chardev_socket, agent_socket)?,
        };
        Ok(Connections { control, bridge })
    }
}
