//! VMs whose memory is served page by page. Each runs in a Firecracker that connects to a socket in its VM's directory.

mod records;
mod served;

use crate::error::{PagerError, Result, Step};
use forkd_layers::{Blobs, Layers};
use forkd_linux_sys::fds;
use forkd_linux_sys::uffd::Userfaultfd;
use forkd_page_server::{PageError, PageServer, ServerOptions, StackTemplate, refreshed};
use forkd_protocol::{FaultCode, PageInventory, ServePages};
use records::Records;
use served::{Context, Served, stats_of};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// All VMs whose memory is served.
pub struct Pages {
    /// Started for the first VM, since its threads and buffers use memory.
    server: Mutex<Option<Arc<PageServer>>>,
    records: Arc<Records>,
    served: Arc<ServedVms>,
}

/// The VMs by name.
#[derive(Default)]
struct ServedVms {
    by_name: Mutex<HashMap<String, Arc<Served>>>,
    fewer: Condvar,
}

impl Pages {
    /// Creates the state without any VM. The directory `records`, which has no other use, keeps the orders of requests.
    pub fn new(records: PathBuf) -> Pages {
        Pages {
            server: Mutex::default(),
            records: Arc::new(Records::new(records)),
            served: Arc::default(),
        }
    }

    /// Listens for the VMM of a VM, and then serves it. Fails with `Unsupported` if userfaultfd is unavailable.
    pub fn serve(&self, request: &ServePages, layers: &Layers, blobs: &Blobs) -> Result<()> {
        let name = &request.sandbox;
        let server = self.server()?;
        let stack = layers.stack(request.mem_bytes, &request.stack, blobs)?;
        // Names of layers that are not on disk mean something else in the next pager, so no record uses them.
        let digests: Option<Vec<String>> = stack.layers.iter().map(|layer| layer.digest()).collect();
        let names = digests.as_ref().unwrap_or(&request.stack).join("+");
        let template = StackTemplate::new(stack, names);
        let template = template.step(|| format!("looking at the layers of {name}"))?;
        let template = refreshed(Arc::new(template), &request.refresh)?;
        let path = Path::new(&request.socket);
        let mut by_name = self.served.lock();
        if by_name.contains_key(name) {
            let message = format!("the memory of {name} is served already");
            return Err(PagerError::new(FaultCode::BadRequest, message));
        }
        // Any user that can reach the directory may connect, but only the VMM's own process is served.
        let listener = fds::listen(path, Some(0o666)).step(|| format!("listening at {}", path.display()))?;
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
                forkd_log::line(&theirs.name, &format!("its memory: {reason}"));
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

    /// Stops serving a VM. Kills a VMM that still needs pages, which would wait forever.
    pub fn release(&self, name: &str) {
        let served = self.served.lock().get(name).cloned();
        if let Some(served) = served {
            served.give_up();
        }
    }

    /// Waits until no VM needs this process any more. After `patience`, kills the VMMs of the others.
    pub fn end(&self, patience: Duration) {
        if self.served.wait_until_none(patience) {
            return;
        }
        self.served.lock().values().for_each(|served| served.give_up());
        // A VMM that cannot be killed waits forever, which is better than continuing with zeros.
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
        // The VMM runs as the same user: if this process may not create a userfaultfd, neither may the VMM.
        Userfaultfd::create_for_pages()
            .map_err(|error| unsupported(format!("creating a userfaultfd as a VMM does: {error}")))?;
        Ok(server.insert(Arc::new(started)).clone())
    }
}

impl ServedVms {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Served>>> {
        self.by_name.lock().expect("no panic while held")
    }

    fn wait_until_none(&self, patience: Duration) -> bool {
        let waited = self
            .fewer
            .wait_timeout_while(self.lock(), patience, |by_name| !by_name.is_empty());
        waited.expect("no panic while held").0.is_empty()
    }

    /// Removes a VM. Another VM may have its name by now.
    fn remove(&self, served: &Arc<Served>) {
        let mut by_name = self.lock();
        by_name.retain(|_, other| !Arc::ptr_eq(other, served));
        self.fewer.notify_all();
    }
}
