//! The guest's vsock. The host names the port; everything after that is the same stream as on the virtio-serial port.

use std::io;
use std::path::Path;

use ::vsock::get_local_cid;
use tokio_vsock::{OwnedReadHalf, OwnedWriteHalf, VMADDR_CID_ANY, VsockAddr, VsockListener};

/// `AGENT_PORT` of the engine.
const VSOCK_PORT: u32 = 10_777;

/// Whether a vsock device gives this machine an address. The module alone, without a device, gives none.
pub fn is_there() -> bool {
    Path::new("/dev/vsock").exists() && get_local_cid().is_ok_and(|cid| cid != VMADDR_CID_ANY)
}

pub fn listen() -> io::Result<VsockListener> {
    VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, VSOCK_PORT))
}

pub async fn accept(listener: &VsockListener) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
    let (stream, _) = listener.accept().await?;
    Ok(stream.into_split())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_vsock::{VMADDR_CID_LOCAL, VsockStream};

    /// Runs both ends on this host, one connection after the other, as a guest sees them across snapshots.
    #[tokio::test]
    async fn a_connection_that_ends_makes_way_for_the_next() {
        if !Path::new("/sys/module/vsock_loopback").exists() {
            eprintln!("skipped: this kernel has no vsock loopback (module vsock_loopback)");
            return;
        }
        let listener = listen().expect("listen");
        for round in 0..3u8 {
            let connect = VsockStream::connect(VsockAddr::new(VMADDR_CID_LOCAL, VSOCK_PORT));
            let (host, guest) = tokio::join!(connect, accept(&listener));
            let (mut host, (mut reader, mut writer)) = (host.expect("connect"), guest.expect("accept"));
            host.write_all(&[round; 100]).await.expect("write");
            let mut bytes = [0; 100];
            reader.read_exact(&mut bytes).await.expect("read");
            writer.write_all(&bytes).await.expect("answer");
            host.read_exact(&mut bytes).await.expect("read the answer");
            assert_eq!(bytes, [round; 100]);
            drop(host);
            assert_eq!(reader.read(&mut bytes).await.expect("the end"), 0);
        }
    }
}
