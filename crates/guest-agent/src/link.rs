//! The link to the host: the virtio-serial port, or the guest's vsock if the VMM has no such port.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio_vsock::VsockListener;

use crate::{port, vsock};

const PORT_NAME: &str = "forkd.agent";
const DEADLINE: Duration = Duration::from_secs(30);
/// How often what is not there yet is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

pub enum Link {
    Port(PathBuf),
    Vsock(VsockListener),
}

/// Waits for either to appear: drivers need a moment. To be called inside the runtime.
pub async fn find() -> io::Result<Link> {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(path) = port::look(PORT_NAME) {
            return Ok(Link::Port(path));
        }
        if vsock::is_there() {
            return Ok(Link::Vsock(vsock::listen()?));
        }
        if Instant::now() >= until {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no virtio-serial port is named {PORT_NAME}, and there is no vsock device"),
            ));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
