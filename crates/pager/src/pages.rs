//! VMs whose memory is served page by page: a Firecracker each, which connects to a socket in its VM's directory.

pub mod records;
mod served;

use crate::blobs::Blobs;
use crate::error::{PagerError, Result, Step};
use crate::layers::Layers;
use crate::listen;
use crate::template::StackTemplate;
use forkd_linux_sys::uffd::Userfaultfd;
use forkd_page_server::{PageError, PageServer, ServerOptions, Summary};
use forkd_protocol::{FaultCode, PageInventory, PageStats, ServePages};
use records::Records;
use served::{Context, Served};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// All of them.
pub struct Pages {
    /// Started when the first one is asked for: its threads and their buffers are for those who need it.
    server: Mutex<Option<Arc<PageServer>>>,
    records: Arc<Records>,
    served: Arc<All>,
}

/// By the names of their VMs.
#[derive(Default)]
struct All {
    by_name: Mutex<HashMap<String, Arc<Served>>>,
    fewer: Condvar,
}

impl Pages {
    /// What VMs ask for is recorded in `records`, a directory of its own.
    pub fn new(records: PathBuf) -> Pages {
        Pages {
            server: Mutex::default(),
            records: Arc::new(Records::new(records)),
            served: Arc::default(),
        }
    }

    /// Listens for the VMM of a VM, and serves it from then on. `Unsupported` where no userfaultfd can be had.
    pub fn serve(&self, request: &ServePages, layers: &Layers, blobs: &Blobs) -> Result<()> {
        let name = &request.sandbox;
        let server = self.server()?;
        let stack = layers.stack(request.mem_bytes, &request.stack, blobs)?;
        // Of layers that are not on disk yet the names mean something else in the next pager.
        let digests: Option<Vec<String>> = stack.layers.iter().map(|layer| layer.digest()).collect();
        let names = digests.as_ref().unwrap_or(&request.stack).join("+");
        let template = StackTemplate::new(stack, names);
        let template = Arc::new(template.step(|| format!("looking at the layers of {name}"))?);
        let path = Path::new(&request.socket);
        let mut by_name = self.served.lock();
        if by_name.contains_key(name) {
            let message = format!("the memory of {name} is served already");
            return Err(PagerError::new(FaultCode::BadRequest, message));
        }
        // Whoever it is that can reach the directory: only the VMM's own process is let through.
        let listener = listen(path, 0o666).step(|| format!("listening at {}", path.display()))?;
        let served = Arc::new(Served::new(name, request.pid, path).step(|| "making an eventfd".into())?);
        by_name.insert(name.clone(), served.clone());
        drop(by_name);
        let context = Context {
            server,
            template,
            records: digests.is_some().then(|| self.records.clone()),
        };
        let all = self.served.clone();
        let theirs = served.clone();
        let spawned = std::thread::Builder::new().name("pages".into()).spawn(move || {
            if let Err(reason) = theirs.run(&listener, context) {
                eprintln!("forkd-pager: the memory of {}: {reason}", theirs.name);
            }
            all.remove(&theirs);
        });
        if let Err(error) = spawned {
            self.served.remove(&served);
            return Err(PagerError::new(
                FaultCode::OutOfMemory,
                format!("starting a thread: {error}"),
            ));
        }
        Ok(())
    }

    /// Serves a VM no longer. A VMM that still needs pages is ended: it would wait for ever.
    pub fn release(&self, name: &str) {
        let served = self.served.lock().get(name).cloned();
        if let Some(served) = served {
            served.give_up();
        }
    }

    /// Waits until no VM needs this process any more, and ends those that still do after `patience`.
    pub fn end(&self, patience: Duration) {
        if self.served.wait_until_none(patience) {
            return;
        }
        self.served.lock().values().for_each(|served| served.give_up());
        // One that cannot be ended waits for ever, which is better than to go on with zeros.
        self.served.wait_until_none(patience);
    }

    pub fn inventory(&self) -> PageInventory {
        let server = self.server.lock().expect("no panic while held").clone();
        let mut served: Vec<_> = self.served.lock().values().map(|served| served.tell()).collect();
        served.sort_by(|a, b| a.sandbox.cmp(&b.sandbox));
        PageInventory {
            served,
            total: stats_of(&server.map(|server| server.stats()).unwrap_or_default()),
        }
    }

    fn server(&self) -> Result<Arc<PageServer>> {
        let mut server = self.server.lock().expect("no panic while held");
        if let Some(server) = &*server {
            return Ok(server.clone());
        }
        let unsupported = |why: String| PagerError::new(FaultCode::Unsupported, why);
        let started = PageServer::start(ServerOptions::default()).map_err(|error| match error {
            PageError::Unsupported => unsupported(error.to_string()),
            other => PagerError::new(FaultCode::Io, other.to_string()),
        })?;
        // The VMM is another process of the same user: what this one may not have, that one may not either.
        Userfaultfd::create_for_pages()
            .map_err(|error| unsupported(format!("creating a userfaultfd as a VMM does: {error}")))?;
        Ok(server.insert(Arc::new(started)).clone())
    }
}

impl All {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Served>>> {
        self.by_name.lock().expect("no panic while held")
    }

    fn wait_until_none(&self, patience: Duration) -> bool {
        let waited = self
            .fewer
            .wait_timeout_while(self.lock(), patience, |by_name| !by_name.is_empty());
        waited.expect("no panic while held").0.is_empty()
    }

    /// Another one may have its name by now.
    fn remove(&self, served: &Arc<Served>) {
        let mut by_name = self.lock();
        by_name.retain(|_, other| !Arc::ptr_eq(other, served));
        self.fewer.notify_all();
    }
}

fn stats_of(summary: &Summary) -> PageStats {
    PageStats {
        faults: summary.faults,
        already_there: summary.already_there,
        copied_pages: summary.copied,
        copied_bytes: summary.bytes,
        zeroed_pages: summary.zeroed,
        prefetched_pages: summary.prefetched,
        populated_pages: summary.populated,
        wait_ns_p50: summary.wait.p50_ns,
        wait_ns_p99: summary.wait.p99_ns,
        wait_ns_max: summary.wait.max_ns,
    }
}
