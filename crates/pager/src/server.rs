//! Serves the controller's requests.

use crate::branch::{self, Context};
use crate::error::{PagerError, Result};
use crate::firecracker::Lent;
use crate::idle::IdleVmms;
use crate::pages::Pages;
use crate::refresh;
use crate::sandbox::Sandbox;
use crate::sandboxes::Sandboxes;
use crate::wire;
use forkd_layers::flat_file::{self, FlatFile, Imported};
use forkd_layers::{Blobs, Layers, host_memory};
use forkd_linux_sys::fds;
use forkd_protocol::{
    Answer, Branch, BranchEvent, FaultCode, ImportMemory, MAX_LINE_BYTES, Op, PROTOCOL_VERSION, Prepare, Reply, Request,
};
use std::any::Any;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Longest wait at shutdown for VMs to receive all of their memory.
const PAGES_PATIENCE: Duration = Duration::from_secs(10);

/// All state of the pager.
pub struct Pager {
    pub blobs: Blobs,
    pub layers: Layers,
    pub sandboxes: Arc<Sandboxes>,
    pub idle: Arc<IdleVmms>,
    pub pages: Pages,
    pub live_unavailable: Option<String>,
    pub tsc_khz: u64,
    /// Socket files to remove at shutdown.
    pub sockets: Vec<std::path::PathBuf>,
}

/// The connection of a controller.
struct Connection {
    pager: Arc<Pager>,
    out: Mutex<UnixStream>,
    /// The branches that this connection has started, by request. They are cancelled when the connection ends.
    branches: Mutex<HashMap<u64, Arc<AtomicBool>>>,
    /// The VMMs that this connection has prepared. They are released when the connection ends.
    prepared: Mutex<Vec<String>>,
    /// The memory files of VMs that have not mapped them yet.
    lent: Lent,
}

/// Serves controllers until the process ends.
pub fn serve(listener: &UnixListener, pager: &Arc<Pager>) {
    for stream in fds::connections(listener) {
        let pager = pager.clone();
        // If no thread can start, the connection is closed, and the controller tries again.
        let _ = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || converse(stream, pager));
    }
}

fn converse(stream: UnixStream, pager: Arc<Pager>) {
    let Ok(input) = stream.try_clone() else { return };
    let connection = Arc::new(Connection {
        pager,
        out: Mutex::new(stream),
        branches: Mutex::default(),
        prepared: Mutex::default(),
        lent: Lent::default(),
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
    // No controller is left to record the results of these.
    let branches = connection.branches.lock().expect("no panic while held");
    branches
        .values()
        .for_each(|cancelled| cancelled.store(true, Ordering::Relaxed));
    let prepared = connection.prepared.lock().expect("no panic while held");
    prepared.iter().for_each(|vmm| connection.pager.idle.release(vmm));
}

impl Connection {
    fn accept(self: Arc<Self>, line: &[u8]) {
        match serde_json::from_slice::<Request>(line) {
            Ok(request) => {
                let (id, theirs) = (request.id, self.clone());
                let spawned = std::thread::Builder::new()
                    .name("request".into())
                    .spawn(move || theirs.serve(request));
                if let Err(error) = spawned {
                    self.finish(
                        id,
                        Err(PagerError::new(
                            FaultCode::OutOfMemory,
                            format!("starting a thread: {error}"),
                        )),
                    );
                }
            }
            Err(error) => {
                let id = serde_json::from_slice::<serde_json::Value>(line)
                    .ok()
                    .and_then(|v| v.get("id")?.as_u64());
                let message = format!("the request is not understood: {error}");
                self.finish(id.unwrap_or(0), Err(PagerError::new(FaultCode::BadRequest, message)));
            }
        }
    }

    fn serve(&self, request: Request) {
        let ends = matches!(request.op, Op::Shutdown);
        let op = request.op.clone();
        // A panic must not leave the controller waiting forever. Its message is in the log.
        let result = catch_unwind(AssertUnwindSafe(|| self.run(request.id, op)))
            .unwrap_or_else(|panic| Err(self.recover(&request, &*panic)));
        self.finish(request.id, result);
        if ends {
            self.pager.end();
        }
    }

    /// Recovers from a panic: gives the sandbox fresh connections, which resume a stopped VM, and returns the error.
    fn recover(&self, request: &Request, panic: &(dyn Any + Send)) -> PagerError {
        self.branches.lock().expect("no panic while held").remove(&request.id);
        if let Op::Branch(Branch { sandbox, .. }) | Op::Floor { sandbox } | Op::ProveWindow { sandbox, .. } =
            &request.op
        {
            let reopened = self
                .pager
                .sandboxes
                .find(sandbox)
                .and_then(|sandbox| sandbox.open(false));
            if let Err(error) = reopened {
                forkd_log::line(sandbox, &format!("it could not be connected again: {error}"));
            }
        }
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let reason = text
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no reason given");
        PagerError::new(FaultCode::Internal, format!("a fault of the pager: {reason}"))
    }

    fn finish(&self, id: u64, result: Result<Answer>) {
        self.send(&match result {
            Ok(result) => Reply::Ok { id, result },
            Err(error) => Reply::Err {
                id,
                error: error.into(),
            },
        });
    }

    fn send(&self, reply: &Reply) {
        let mut line = serde_json::to_vec(reply).expect("a reply is plain data");
        line.push(b'\n');
        // Ignore errors: the thread that reads from the controller notices when the controller is gone.
        let _ = self.out.lock().expect("no panic while held").write_all(&line);
    }

    fn run(&self, id: u64, op: Op) -> Result<Answer> {
        let pager = &*self.pager;
        match op {
            Op::Hello => return Ok(pager.hello()),
            Op::Announce(announced) => pager.sandboxes.announce(announced, &pager.layers, &pager.blobs)?,
            Op::Open { sandbox, paused } => {
                pager.sandboxes.find(&sandbox)?.open(paused)?;
                // The file is mapped by now, or never will be.
                self.lent.take_back(&sandbox);
            }
            Op::Prepare(prepare) => self.prepare(prepare)?,
            Op::AwaitIdle { vmm } => pager.idle.await_idle(&vmm)?,
            Op::LoadAhead(from) => pager.idle.load_ahead(from, &pager.layers, &pager.blobs)?,
            Op::Wake(wake) => {
                self.forget(&wake.vmm);
                pager.idle.wake(wake, &pager.sandboxes, &pager.layers, &pager.blobs)?;
            }
            Op::Release { sandbox } => {
                self.forget(&sandbox);
                self.lent.take_back(&sandbox);
                pager.idle.release(&sandbox);
                pager.sandboxes.release(&sandbox);
                pager.pages.release(&sandbox);
            }
            Op::Branch(request) => return self.branch(id, &request),
            Op::Cancel { request } => self.cancel(request)?,
            Op::Pause { sandbox } => pager.sandboxes.find(&sandbox)?.exclusive()?.control().stop()?,
            Op::Resume { sandbox } => pager
                .sandboxes
                .find(&sandbox)?
                .exclusive()?
                .control()
                .run_if_stopped()?,
            Op::Floor { sandbox } => return branch::floor(&*pager.sandboxes.find(&sandbox)?),
            Op::ProveWindow { sandbox, vmm } => self.prove_window(&sandbox, vmm.as_deref())?,
            Op::Memory { sandbox } => return Ok(Answer::Memory(pager.sandboxes.find(&sandbox)?.memory()?)),
            Op::Load { mem_bytes, stack } => {
                pager.layers.stack(mem_bytes, &stack, &pager.blobs)?;
            }
            Op::Flatten { mem_bytes, stack } => {
                let stack = pager.layers.stack(mem_bytes, &stack, &pager.blobs)?;
                return Ok(Answer::Layer(wire::blob(
                    pager.blobs.put_layer(&stack.flatten()?, || false)?,
                )));
            }
            Op::ExportMemory { mem_bytes, stack, path } => {
                let stack = pager.layers.stack(mem_bytes, &stack, &pager.blobs)?;
                flat_file::export(&stack, &pager.blobs, Path::new(&path))?;
            }
            Op::ImportMemory(request) => return pager.import_memory(&request),
            Op::ImportFile { path } => return Ok(Answer::Layer(wire::blob(pager.blobs.put_file(Path::new(&path))?))),
            Op::LendMemory { sandbox } => {
                let path = self.lend(&sandbox)?;
                return Ok(Answer::Lent { path });
            }
            Op::TakeMemory { sandbox } => {
                let kept = pager.sandboxes.find(&sandbox)?.take_memory()?;
                return Ok(Answer::Taken { kept });
            }
            Op::RefreshMapped(request) => refresh::apply_to_mapped(&request)?,
            Op::ServePages(request) => pager.pages.serve(&request, &pager.layers, &pager.blobs)?,
            Op::Pages => return Ok(Answer::Pages(pager.pages.inventory())),
            Op::Inventory => {
                return Ok(Answer::Inventory {
                    layers: pager.layers.inventory().into_iter().map(wire::held_layer).collect(),
                    sandboxes: pager.sandboxes.inventory(),
                });
            }
            Op::DropLayer { layer } => pager.idle.release_loaded(&pager.layers.drop_layer(&layer)),
            Op::LetGo { layers } => pager.layers.let_go(&layers),
            Op::LimitLayers { unmapped_bytes } => {
                let bytes = unmapped_bytes.map_or_else(host_memory::default_budget_bytes, Ok)?;
                pager.layers.limit(bytes);
            }
            Op::LayerMemory => return Ok(Answer::LayerMemory(wire::layer_memory(pager.layers.memory_use()))),
            Op::Shutdown => {}
        }
        Ok(Answer::Done)
    }

    fn lend(&self, sandbox: &str) -> Result<String> {
        let sandbox = self.pager.sandboxes.find(sandbox)?;
        self.lent.lend(&sandbox.announced, &sandbox.stack)
    }

    fn prepare(&self, prepare: Prepare) -> Result<()> {
        let vmm = prepare.vmm.clone();
        self.pager.idle.prepare(prepare)?;
        self.prepared.lock().expect("no panic while held").push(vmm);
        Ok(())
    }

    /// Records that a woken or released VMM no longer belongs to this connection.
    fn forget(&self, vmm: &str) {
        self.prepared
            .lock()
            .expect("no panic while held")
            .retain(|prepared| prepared != vmm);
    }

    fn branch(&self, id: u64, request: &Branch) -> Result<Answer> {
        let sandbox = self.pager.sandboxes.find(&request.sandbox)?;
        let cancelled = Arc::new(AtomicBool::new(false));
        self.branches
            .lock()
            .expect("no panic while held")
            .insert(id, cancelled.clone());
        let event = |event| self.send(&Reply::Event { id, event });
        let result = branch::run(&self.context(&sandbox, &cancelled, &event), request);
        self.branches.lock().expect("no panic while held").remove(&id);
        result.map(Answer::Branch)
    }

    fn prove_window(&self, sandbox: &str, vmm: Option<&str>) -> Result<()> {
        let sandbox = self.pager.sandboxes.find(sandbox)?;
        let idle = vmm.map(|vmm| (&*self.pager.idle, vmm));
        branch::prove(&self.context(&sandbox, &AtomicBool::new(false), &|_| ()), idle)
    }

    fn context<'a>(
        &'a self,
        sandbox: &'a Sandbox,
        cancelled: &'a AtomicBool,
        event: &'a dyn Fn(BranchEvent),
    ) -> Context<'a> {
        Context {
            sandbox,
            layers: &self.pager.layers,
            blobs: &self.pager.blobs,
            cancelled,
            event,
        }
    }

    fn cancel(&self, request: u64) -> Result<()> {
        let branches = self.branches.lock().expect("no panic while held");
        let found = branches.get(&request);
        let missing = || {
            PagerError::new(
                FaultCode::BadRequest,
                format!("request {request} is no branch under way"),
            )
        };
        found.ok_or_else(missing)?.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Pager {
    fn import_memory(&self, request: &ImportMemory) -> Result<Answer> {
        let flat = FlatFile {
            path: Path::new(&request.path),
            length: request.mem_bytes,
            below: &request.stack,
            tracked: request.tracked,
        };
        let Imported { stack, pages } = flat_file::import(flat, &self.layers, &self.blobs)?;
        Ok(Answer::Imported {
            stack: wire::blobs(stack),
            captured_pages: pages,
        })
    }

    fn hello(&self) -> Answer {
        Answer::Hello {
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            live_unavailable: self.live_unavailable.clone(),
            tsc_khz: self.tsc_khz,
        }
    }

    fn end(&self) -> ! {
        self.pages.end(PAGES_PATIENCE);
        for socket in &self.sockets {
            // The file may have been removed with its directory.
            let _ = std::fs::remove_file(socket);
        }
        std::process::exit(0)
    }
}
