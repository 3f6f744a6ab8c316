//! State that the agent keeps while connections come and go. All of it is memory, and therefore part of every snapshot.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use hyper::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::command::Commands;
use crate::config::Config;
use crate::error::{ApiError, ErrorCode};
use crate::eval::{Interpreters, SEED_BYTES};
use crate::freezer::Freezer;
use crate::generation_page::GenerationPage;
use crate::identity;
use crate::reaper::Reaper;
use crate::refresh::Refresh;
use crate::{root_files, sys, watch};

/// Watches at the same time. The guest's programs need some of the kernel's 128 inotify instances, too.
const WATCHES_MAX: usize = 32;
/// Connections to ports at the same time. The other streams of the connection to the host are for everything else.
const PORTS_MAX: usize = 128;

pub struct Agent {
    /// The agent is PID 1 of a machine of its own, whose clock and names it may change.
    pub owns_machine: bool,
    refresh: Refresh,
    generation_page: Option<GenerationPage>,
    started: Instant,
    pub reaper: Reaper,
    pub commands: Commands,
    pub interpreters: Arc<Interpreters>,
    pub freezer: Arc<Freezer>,
    watches: Arc<Semaphore>,
    ports: Arc<Semaphore>,
    config: Mutex<Config>,
    identity: Mutex<identity::Current>,
    /// Held while an identity is taken on, so that two never mix.
    identifying: tokio::sync::Mutex<()>,
}

/// The agent's findings about this machine.
pub type Machine = (Refresh, Option<GenerationPage>);

impl Agent {
    pub fn new(machine: Option<Machine>, reaper: Reaper) -> Agent {
        let owns_machine = machine.is_some();
        let none = || (Refresh::unavailable("the agent has no machine of its own"), None);
        let (refresh, generation_page) = machine.unwrap_or_else(none);
        Agent {
            owns_machine,
            refresh,
            generation_page,
            started: Instant::now(),
            reaper,
            commands: Commands::default(),
            interpreters: Arc::default(),
            freezer: Arc::default(),
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
            ports: Arc::new(Semaphore::new(PORTS_MAX)),
            config: Mutex::default(),
            identity: Mutex::default(),
            identifying: tokio::sync::Mutex::default(),
        }
    }

    pub fn uptime_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    pub fn config(&self) -> Config {
        self.config.lock().expect("no holder panics").clone()
    }

    /// Takes on the defaults for commands. The working directory of an image need not be in any of its layers.
    pub fn configure(&self, config: Config) -> Result<(), ApiError> {
        if self.owns_machine {
            let workdir = config.workdir();
            root_files::make_directory(workdir)
                .map_err(|error| ApiError::io(format_args!("make the working directory {workdir}"), &error))?;
        }
        *self.config.lock().expect("no holder panics") = config;
        Ok(())
    }

    /// The right to one watch, for as long as it is held.
    pub fn watch_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let permit = self.watches.clone().try_acquire_owned();
        permit.map_err(|_| watch::too_many(format!("{WATCHES_MAX} watches are open already")))
    }

    /// The right to one connection to a port, for as long as it is held.
    pub fn port_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.ports.clone().try_acquire_owned().map_err(|_| {
            let message = format!("{PORTS_MAX} connections to ports are open already");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TooManyConnections, message)
        })
    }

    pub fn refresh(&self) -> &Refresh {
        &self.refresh
    }

    pub fn identity(&self) -> identity::Current {
        self.identity.lock().expect("no holder panics").clone()
    }

    /// Takes on an identity. Names what has a new seed: the kernel, and each warm interpreter that has confirmed it.
    pub async fn identify(&self, request: identity::Request) -> Result<(u64, Vec<&'static str>), ApiError> {
        let identity = request.check()?;
        let _turn = self.identifying.lock().await;
        let mut reseeded = Vec::new();
        if self.owns_machine {
            identity.apply()?;
            reseeded.push("kernel");
            // Names and clock belong to this machine from here on.
            self.freezer.thaw();
        }
        // The kernel's generator has the new entropy by now; mixing the request's in again makes the seeds differ from
        // those of every other child even where the agent does not own the machine.
        let seed = || {
            let mut seed: [u8; SEED_BYTES] = sys::random();
            for (byte, extra) in seed.iter_mut().zip(&identity.entropy) {
                *byte ^= extra;
            }
            seed
        };
        reseeded.extend(self.interpreters.reseed(seed).await);
        Ok((self.note(&identity), reseeded))
    }

    /// Makes the programs of users stand still until this machine is told to thaw, or its child has an identity.
    pub async fn freeze(self: Arc<Self>) -> Result<(), ApiError> {
        let Some(page) = &self.generation_page else {
            let why = "a child could not be told from its source: there is no generation page";
            return Err(ApiError::new(
                StatusCode::NOT_IMPLEMENTED,
                ErrorCode::FreezerUnavailable,
                why,
            ));
        };
        let number = page.number();
        let agent = self.clone();
        let is_child = move || {
            agent
                .generation_page
                .as_ref()
                .is_none_or(|page| page.number() != number)
        };
        self.freezer.clone().freeze(is_child).await
    }

    /// Notes the identity as the current one, and gives its number.
    fn note(&self, identity: &identity::Identity) -> u64 {
        let mut current = self.identity.lock().expect("no holder panics");
        let before = current.generation;
        current.take_on(identity);
        if let Some(page) = &self.generation_page {
            page.take_on_identity(current.generation != before);
        }
        current.generation
    }
}
