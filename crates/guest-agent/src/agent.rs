//! What the agent keeps while connections come and go. All of it is memory, and so part of every snapshot.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::command::Commands;
use crate::config::Config;
use crate::error::ApiError;
use crate::eval::{Interpreters, SEED_BYTES};
use crate::identity;
use crate::reaper::Reaper;
use crate::sys;

pub struct Agent {
    /// The agent is PID 1 of a machine of its own, whose clock and names it may change.
    owns_machine: bool,
    started: Instant,
    pub reaper: Reaper,
    pub commands: Commands,
    pub interpreters: Arc<Interpreters>,
    config: Mutex<Config>,
    identity: Mutex<identity::Current>,
    /// Held while an identity is taken on, so that two never mix.
    identifying: tokio::sync::Mutex<()>,
}

impl Agent {
    pub fn new(owns_machine: bool, reaper: Reaper) -> Agent {
        Agent {
            owns_machine,
            started: Instant::now(),
            reaper,
            commands: Commands::default(),
            interpreters: Arc::default(),
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

    pub fn configure(&self, config: Config) {
        *self.config.lock().expect("no holder panics") = config;
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
        let mut current = self.identity.lock().expect("no holder panics");
        current.take_on(&identity);
        Ok((current.generation, reseeded))
    }
}
