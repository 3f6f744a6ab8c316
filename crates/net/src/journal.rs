//! Flow records on their way to the controller.

use crate::limits::{Bucket, DENIALS};
use forkd_protocol::net::{Direction, FlowRecord, Phase, Reason, Transport};
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Records of all sandboxes that wait for a controller.
const WAITING_MAX: usize = 4_096;

/// The records that no controller has taken yet. A full journal drops its oldest denial, or else its
/// oldest record, and counts what it drops.
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
            let denied = waiting.records.iter().position(|record| record.phase == Phase::Denied);
            let dropped = waiting.records.remove(denied.unwrap_or(0));
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

/// Writes the records of one sandbox. Denials have a limited rate, and take no room from what was reached: flows are opened at a
/// limited rate themselves.
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
            bucket: Bucket::new(DENIALS, Instant::now()),
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
        if self.bucket.take(Instant::now()) {
            self.write(Phase::Denied, subject, Some(reason), Carried::default());
        } else {
            self.lost += 1;
        }
    }

    fn write(&mut self, phase: Phase, subject: &Subject, reason: Option<Reason>, carried: Carried) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(port: u16) -> Subject {
        Subject {
            direction: Direction::Out,
            transport: Some(Transport::Tcp),
            name: None,
            address: Ipv4Addr::LOCALHOST,
            port,
            rule: None,
        }
    }

    #[test]
    fn denials_cannot_hide_what_was_reached() {
        let journal = Arc::new(Journal::default());
        let mut recorder = Recorder::new("sb".into(), journal.clone());
        recorder.opened(&subject(1));
        for _ in 0..10_000 {
            recorder.denied(&subject(2), Reason::NoRule);
        }
        recorder.opened(&subject(3));
        let records = journal.take(Duration::ZERO);
        let opened: Vec<u16> = records
            .iter()
            .filter(|it| it.phase == Phase::Opened)
            .map(|it| it.port)
            .collect();
        assert_eq!(opened, [1, 3]);
        let told = records.len() as u64 + records.iter().map(|record| record.lost).sum::<u64>();
        assert_eq!(told, 10_002);
    }

    #[test]
    fn a_full_journal_drops_denials_first_and_counts_them() {
        let journal = Arc::new(Journal::default());
        // Many sandboxes, each below its own rate.
        for number in 0..WAITING_MAX as u16 {
            let mut recorder = Recorder::new(format!("sb-{number}"), journal.clone());
            recorder.opened(&subject(1));
            recorder.denied(&subject(2), Reason::NoRule);
        }
        let records = journal.take(Duration::ZERO);
        assert_eq!(records.len(), WAITING_MAX);
        assert!(
            records
                .iter()
                .take(WAITING_MAX - 1)
                .all(|record| record.phase == Phase::Opened)
        );
        assert_eq!(records[0].lost, WAITING_MAX as u64);
        // Records that a controller did not take after all keep their place.
        journal.restore(records.clone());
        assert_eq!(journal.take(Duration::ZERO), records);
    }
}
