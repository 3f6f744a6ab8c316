//! The shim's call to the pager.

use crate::window::{Functions, Window};
use forkd_linux_sys::fds;
use forkd_linux_sys::uffd::Userfaultfd;
use forkd_protocol::plan::{EXTENT_BYTES, Extent, HEADER_BYTES, Header, REFRESH_BYTES};
use forkd_protocol::{GuestRegion, PAGE_SIZE, PROTOCOL_VERSION, Refresh, ShimHello, ShimWants};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// A pager that has been told who is there, and has not answered yet.
pub struct Call {
    socket: UnixStream,
}

/// A pager that has answered.
pub struct Pager {
    socket: UnixStream,
    header: Header,
    layers: Vec<OwnedFd>,
    extents: Vec<Extent>,
    refreshes: Vec<Refresh>,
    /// Name and key are empty for a VMM that was started for one VM.
    name: String,
    device_state: Vec<u8>,
    /// The window that this pager has been handed.
    window: Option<Window>,
}

impl Call {
    pub fn dial(path: &str, sandbox: &str, key: &str, wants: ShimWants) -> Result<Call, String> {
        let mut socket = UnixStream::connect(path).map_err(|error| format!("calling the pager at {path}: {error}"))?;
        let hello = ShimHello {
            protocol: PROTOCOL_VERSION,
            sandbox: sandbox.into(),
            key: key.into(),
            wants,
        };
        let mut line = serde_json::to_vec(&hello).map_err(|error| error.to_string())?;
        line.push(b'\n');
        socket
            .write_all(&line)
            .map_err(|error| format!("greeting the pager: {error}"))?;
        Ok(Call { socket })
    }

    /// Waits for the plan.
    pub fn receive(self) -> Result<Pager, String> {
        receive(self.socket).map_err(|error| format!("the pager gave this VMM no memory: {error}"))
    }
}

fn receive(mut socket: UnixStream) -> Result<Pager, String> {
    let describe = |error: std::io::Error| error.to_string();
    let mut layers = Vec::new();
    let mut header = [0u8; HEADER_BYTES];
    let mut got = 0;
    while got < HEADER_BYTES {
        match fds::receive_with_fds(&socket, &mut header[got..], &mut layers).map_err(describe)? {
            0 => return Err("it closed the connection".into()),
            count => got += count,
        }
    }
    let header = Header::decode(&header)?;
    while (layers.len() as u64) < header.fds {
        // Descriptors beyond the first message's come with a byte each time.
        if fds::receive_with_fds(&socket, &mut [0u8; 1], &mut layers).map_err(describe)? == 0 {
            return Err("it closed the connection".into());
        }
    }
    let mut take = |bytes: u64| -> Result<Vec<u8>, String> {
        let mut buffer = vec![0u8; bytes as usize];
        socket.read_exact(&mut buffer).map_err(describe)?;
        Ok(buffer)
    };
    let extents = take(header.extents * EXTENT_BYTES as u64)?
        .chunks_exact(EXTENT_BYTES)
        .map(|b| Extent::decode(b.try_into().expect("an extent")))
        .collect();
    let refreshes = take(header.refreshes * REFRESH_BYTES as u64)?
        .chunks_exact(REFRESH_BYTES)
        .map(|b| Refresh::decode(b.try_into().expect("a refresh")))
        .collect::<Result<_, _>>()?;
    let name = String::from_utf8(take(header.name_bytes)?).map_err(|error| error.to_string())?;
    let device_state = take(header.device_state_bytes)?;
    Ok(Pager {
        socket,
        header,
        layers,
        extents,
        refreshes,
        name,
        device_state,
        window: None,
    })
}

/// Reads a [`forkd_protocol::window::run_order`].
fn receive_name(socket: &mut UnixStream) -> std::io::Result<String> {
    let mut bytes = [0; 2];
    socket.read_exact(&mut bytes)?;
    let mut name = vec![0; u16::from_le_bytes(bytes).into()];
    socket.read_exact(&mut name)?;
    String::from_utf8(name).map_err(std::io::Error::other)
}

impl Pager {
    pub fn mem_bytes(&self) -> u64 {
        self.header.mem_bytes
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn device_state(&self) -> &[u8] {
        &self.device_state
    }

    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    pub fn refreshes(&self) -> &[Refresh] {
        &self.refreshes
    }

    pub fn layer(&self, index: u64) -> Result<&OwnedFd, String> {
        self.layers
            .get(index as usize)
            .ok_or_else(|| format!("the plan names layer {index} of {}", self.layers.len()))
    }

    /// Sends the guest's regions with a new userfaultfd, as Firecracker does. A host that gives out none gets the regions
    /// alone. With `qemu`, the page of a new window follows the userfaultfd.
    pub fn hand_over(
        &mut self,
        base: u64,
        mem_bytes: u64,
        device: Option<BorrowedFd<'_>>,
        qemu: Option<Functions>,
    ) -> Result<(), String> {
        let region = GuestRegion {
            base_host_virt_addr: base,
            size: mem_bytes,
            offset: 0,
            page_size: PAGE_SIZE,
        };
        let text = serde_json::to_vec(&[region]).map_err(|error| error.to_string())?;
        let uffd = Userfaultfd::create_from(device).ok();
        let window = qemu.filter(|_| uffd.is_some()).map(Window::create).transpose()?;
        let (window, page) = window.unzip();
        self.window = window;
        let attached: Vec<_> = uffd
            .iter()
            .map(AsFd::as_fd)
            .chain(page.iter().map(AsFd::as_fd))
            .collect();
        fds::send_with_fds(&self.socket, &text, &attached).map_err(|error| format!("handing over the memory: {error}"))
    }

    /// The window that this pager has been handed.
    pub fn window(&self) -> Result<&Window, String> {
        self.window.as_ref().ok_or("this host gives out no userfaultfd".into())
    }

    /// Waits for the order to run the VM that has been loaded.
    pub fn await_run(&mut self) -> Result<(), String> {
        let name = receive_name(&mut self.socket);
        self.name = name.map_err(|error| format!("the pager gave this VMM no VM: {error}"))?;
        Ok(())
    }

    /// Begins the pauses that the pager orders. Returns when the pager has closed the connection or ended.
    pub fn serve_until_end(&mut self) {
        // The descriptors would keep layers alive that the pager has evicted. The mappings do not need them.
        self.layers.clear();
        self.device_state = Vec::new();
        let mut files = Vec::new();
        while matches!(fds::receive_with_fds(&self.socket, &mut [0u8; 1], &mut files), Ok(1..)) {
            if let (Some(window), Some(file)) = (&self.window, files.pop()) {
                window.begin(file);
            }
        }
        if let Some(window) = &self.window {
            window.abandon();
        }
    }
}
