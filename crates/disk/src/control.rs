//! Serves the controller's requests.

use crate::disks::{Disks, check_size};
use crate::error::{DiskError, Result};
use crate::stack::Stack;
use crate::writer::{self, LayerWriter};
use forkd_linux_sys::fds;
use forkd_protocol::disk::{BLOCK_SIZE, DISK_PROTOCOL_VERSION, DiskAnswer, DiskOp, DiskReply, DiskRequest};
use forkd_protocol::{FaultCode, MAX_LINE_BYTES};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// All state of the server.
#[derive(Debug)]
pub struct Server {
    pub disks: Arc<Disks>,
    /// Socket files to remove at shutdown.
    pub sockets: Vec<PathBuf>,
}

/// The connection of a controller.
struct Connection {
    server: Arc<Server>,
    out: Mutex<UnixStream>,
}

/// Serves controllers until the process ends.
pub fn serve(listener: &UnixListener, server: &Arc<Server>) {
    for stream in fds::connections(listener) {
        let server = server.clone();
        // If no thread can start, the connection is closed, and the controller tries again.
        let _ = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || converse(stream, server));
    }
}

fn converse(stream: UnixStream, server: Arc<Server>) {
    let Ok(input) = stream.try_clone() else { return };
    let connection = Arc::new(Connection {
        server,
        out: Mutex::new(stream),
    });
    let mut lines = BufReader::new(input);
    loop {
        let mut line = Vec::new();
        match Read::take(&mut lines, MAX_LINE_BYTES as u64).read_until(b'\n', &mut line) {
            Ok(1..) if line.ends_with(b"\n") => connection.clone().accept(&line),
            // The connection has ended or failed, or the line is too long.
            _ => break,
        }
    }
}

impl Connection {
    fn accept(self: Arc<Self>, line: &[u8]) {
        let request = match serde_json::from_slice::<DiskRequest>(line) {
            Ok(request) => request,
            Err(error) => {
                let id = serde_json::from_slice::<serde_json::Value>(line)
                    .ok()
                    .and_then(|value| value.get("id")?.as_u64());
                let message = format!("the request is not understood: {error}");
                return self.finish(id.unwrap_or(0), Err(DiskError::bad_request(message)));
            }
        };
        let (id, theirs) = (request.id, self.clone());
        let spawned = std::thread::Builder::new()
            .name("request".into())
            .spawn(move || theirs.serve(request));
        if let Err(error) = spawned {
            let message = format!("starting a thread: {error}");
            self.finish(id, Err(DiskError::new(FaultCode::OutOfMemory, message)));
        }
    }

    fn serve(&self, DiskRequest { id, op }: DiskRequest) {
        let ends = matches!(op, DiskOp::Shutdown);
        // A panic must not leave the controller waiting forever. Its message is in the log.
        let result = catch_unwind(AssertUnwindSafe(|| self.server.run(op)));
        let panicked = |_| Err(DiskError::new(FaultCode::Internal, "a fault of the disk server"));
        self.finish(id, result.unwrap_or_else(panicked));
        if ends {
            self.server.end();
        }
    }

    fn finish(&self, id: u64, result: Result<DiskAnswer>) {
        let reply = match result {
            Ok(result) => DiskReply::Ok { id, result },
            Err(error) => DiskReply::Err {
                id,
                error: error.into(),
            },
        };
        let mut line = serde_json::to_vec(&reply).expect("a reply is plain data");
        line.push(b'\n');
        // Ignore errors: the thread that reads from the controller notices when the controller is gone.
        let _ = self.out.lock().expect("no panic while held").write_all(&line);
    }
}

impl Server {
    fn run(&self, op: DiskOp) -> Result<DiskAnswer> {
        let layers = &self.disks.layers;
        match op {
            DiskOp::Hello => return Ok(hello()),
            DiskOp::Open(request) => {
                let export = self.disks.open(request)?;
                let epoch = export.disk.epoch();
                return Ok(DiskAnswer::Opened {
                    epoch_path: epoch.path(),
                    epoch: epoch.get(),
                });
            }
            DiskOp::Bind { key, layers } => self.disks.bind(&key, layers)?,
            DiskOp::Seal { key, epoch } => return self.seal(&key, Some(epoch)),
            DiskOp::Freeze { key } => return self.seal(&key, None),
            DiskOp::StartAudit { key } => self.disks.find(&key)?.disk.start_audit()?,
            DiskOp::FinishAudit { key, layers: names } => {
                let export = self.disks.find(&key)?;
                let stack = layers.stack_of_files(layers.find(&names)?, export.disk.blocks())?;
                return Ok(DiskAnswer::Audited(export.disk.finish_audit(&stack)?));
            }
            DiskOp::Persist { layers: names } => {
                let found = layers.find(&names)?;
                let blobs = found.iter().map(|layer| layers.persist(layer)).collect::<Result<_>>()?;
                return Ok(DiskAnswer::Blobs { blobs });
            }
            DiskOp::Drop { layers: names } => layers.drop_names(&names),
            DiskOp::Close { key } => self.disks.close(&key),
            DiskOp::Usage { key } => return Ok(DiskAnswer::Usage(self.disks.find(&key)?.disk.usage()?)),
            DiskOp::Import { path, size_bytes } => {
                check_size(size_bytes)?;
                let blocks = size_bytes / BLOCK_SIZE;
                return self.write_layer(blocks, |out| out.put_image(Path::new(&path), blocks));
            }
            DiskOp::Merge { layers } => {
                let (stack, blocks) = self.stack(&layers)?;
                return self.write_layer(blocks, |out| stack.visit(|block, bytes| out.put(block, bytes)));
            }
            DiskOp::Export { layers, path } => {
                let (stack, blocks) = self.stack(&layers)?;
                writer::export(&stack, blocks, Path::new(&path))?;
            }
            DiskOp::Digest { layers } => {
                let (digest, blocks) = writer::digest(&self.stack(&layers)?.0)?;
                return Ok(DiskAnswer::Digest { digest, blocks });
            }
            DiskOp::Inventory => {
                return Ok(DiskAnswer::Inventory {
                    disks: self.disks.inventory(),
                    layers: layers.inventory(),
                });
            }
            DiskOp::Shutdown => {}
        }
        Ok(DiskAnswer::Done)
    }

    /// Names the content of a disk as it was at `epoch`, or as it is now.
    fn seal(&self, key: &str, epoch: Option<u64>) -> Result<DiskAnswer> {
        let export = self.disks.find(key)?;
        let epoch = epoch.unwrap_or_else(|| export.disk.epoch().advance());
        let (layers, own_bytes) = export.disk.seal(epoch)?;
        export.disk.prepare_next();
        Ok(DiskAnswer::Sealed { layers, own_bytes })
    }

    /// The stack of these layers, and the size of its disk in blocks.
    fn stack(&self, names: &[String]) -> Result<(Stack, u64)> {
        let layers = &self.disks.layers;
        let found = layers.find(names)?;
        let blocks = layers.disk_blocks(&found)?;
        Ok((layers.stack(found, blocks)?, blocks))
    }

    fn write_layer(&self, blocks: u64, fill: impl FnOnce(&mut LayerWriter) -> Result<()>) -> Result<DiskAnswer> {
        let layers = &self.disks.layers;
        let mut writer = layers.writer()?;
        fill(&mut writer)?;
        let blob = writer.finish(blocks)?;
        layers.publish(writer.path(), &blob)?;
        Ok(DiskAnswer::Blobs { blobs: vec![blob] })
    }

    fn end(&self) -> ! {
        for socket in &self.sockets {
            // The file may have been removed with its directory.
            let _ = std::fs::remove_file(socket);
        }
        std::process::exit(0)
    }
}

fn hello() -> DiskAnswer {
    DiskAnswer::Hello {
        protocol: DISK_PROTOCOL_VERSION,
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
    }
}
