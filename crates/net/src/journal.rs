//! Flow records on their way to the controller.

use crate::limits::{Bucket, RECORDS};
use forkd_protocol::net::{Direction, FlowRecord, Phase, Reason, Transport};
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Records of all sandboxes that wait for a controller.
const WAITING_MAX: usize = 4_096;

/// The records that no controller has taken yet. A full journal drops its oldest records and counts them.
#[derive(Default)]
pub struct Journal {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Default)]
struct Waiting {
    records: VecDeque<FlowRecord>,
    lost: u64,
}

impl Journal {
    fn push(&self, record: FlowRecord) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.records.len() == WAITING_MAX {
            let dropped = waiting.records.pop_front();
            waiting.lost += 1 + dropped.map_or(0, |record| record.lost);
        }
        waiting.records.push_back(record);
        self.arrived.notify_one();
    }

    /// Puts back records that no controller has taken after all.
    pub fn restore(&self, mut records: VecDeque<FlowRecord>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let since = std::mem::take(&mut waiting.records);
        let room = WAITING_MAX - since.len();
        for record in records.drain(..records.len().saturating_sub(room)) {
            waiting.lost += 1 + record.lost;
        }
        records.extend(since);
        waiting.records = records;
    }

    /// Takes all records. Waits up to `patience` for the first one.
    pub fn take(&self, patience: Duration) -> VecDeque<FlowRecord> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_empty = |waiting: &mut Waiting| waiting.records.is_empty();
        let waited = self.arrived.wait_timeout_while(waiting, patience, is_empty);
        let (mut waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let lost = std::mem::take(&mut waiting.lost);
        let mut records = std::mem::take(&mut waiting.records);
        match records.front_mut() {
            Some(first) => first.lost += lost,
            None => waiting.lost = lost,
        }
        records
    }
}

/// The facts that all records of a flow share.
#[derive(Debug, Clone)]
pub struct Subject {
    pub direction: Direction,
    pub transport: Option<Transport>,
    pub name: Option<String>,
    pub address: Ipv4Addr,
    pub port: u16,
    pub rule: Option<String>,
}

/// The bytes that a flow has carried.
#[derive(Debug, Clone, Copy, Default)]
pub struct Carried {
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub time: Duration,
}

/// Writes the records of one sandbox, at a limited rate.
pub struct Recorder {
    pub sandbox: String,
    journal: Arc<Journal>,
    bucket: Bucket,
    lost: u64,
}

impl Recorder {
    pub fn new(sandbox: String, journal: Arc<Journal>) -> Recorder {
        Recorder {
            sandbox,
            journal,
            bucket: Bucket::new(RECORDS, Instant::now()),
            lost: 0,
        }
    }

    pub fn opened(&mut self, subject: &Subject) {
        self.write(Phase::Opened, subject, None, Carried::default());
    }

    pub fn closed(&mut self, subject: &Subject, reason: Option<Reason>, carried: Carried) {
        self.write(Phase::Closed, subject, reason, carried);
    }

    pub fn denied(&mut self, subject: &Subject, reason: Reason) {
        self.write(Phase::Denied, subject, Some(reason), Carried::default());
    }

    fn write(&mut self, phase: Phase, subject: &Subject, reason: Option<Reason>, carried: Carried) {
        if !self.bucket.take(Instant::now()) {
            self.lost += 1;
            return;
        }
        let Subject {
            direction,
            transport,
            name,
            address,
            port,
            rule,
        } = subject.clone();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.journal.push(FlowRecord {
            sandbox: self.sandbox.clone(),
            at_ms: millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
            phase,
            direction,
            transport,
            name,
            address,
            port,
            rule,
            reason,
            sent_bytes: carried.sent_bytes,
            received_bytes: carried.received_bytes,
            ms: millis(carried.time),
            lost: std::mem::take(&mut self.lost),
        });
    }
}
