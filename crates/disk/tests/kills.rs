//! A client writes, several requests at a time, while the server is killed again and again. What the client was told is done is there
//! afterwards; of what it was not told, each block is as before or as it was to be. Snapshots do not change.
//!
//! `FORKD_TEST_SEED` repeats the choices of a run, `FORKD_TEST_KILLS` sets the number of kills.

mod support;

use serde_json::json;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use support::{BLOCK, Client, Server, TRIM, WRITE, WRITE_ZEROES};

const BLOCKS: usize = 2048;
const KILLS: u64 = 15;
const IN_FLIGHT_MAX: usize = 8;

/// Random numbers (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The change of a request that has no reply yet: these blocks get this tag.
struct Change {
    blocks: Range<usize>,
    tag: u64,
}

/// A client that knows what its disk must hold. The content of a block is its tag, over and over.
struct Writer {
    random: Random,
    tags: Vec<u64>,
    in_flight: HashMap<u64, Change>,
    next_tag: u64,
    /// How many requests of this connection were answered.
    replies: u64,
}

impl Writer {
    /// Sends one more request, for blocks that no other is changing.
    fn send(&mut self, client: &mut Client) -> std::io::Result<()> {
        let start = self.random.below(BLOCKS as u64 - 70) as usize;
        let blocks = start..start + 1 + self.random.below(64) as usize;
        let overlaps = |change: &Change| change.blocks.start < blocks.end && blocks.start < change.blocks.end;
        if self.in_flight.values().any(overlaps) {
            return Ok(());
        }
        let command = [WRITE, WRITE, WRITE, TRIM, WRITE_ZEROES][self.random.below(5) as usize];
        self.next_tag += 1;
        let tag = if command == WRITE { self.next_tag } else { 0 };
        let content = tag.to_le_bytes().repeat(blocks.len() * BLOCK / 8);
        let payload = if command == WRITE { &content[..] } else { &[] };
        // The request may arrive even if sending fails.
        let cookie = client.next_cookie();
        self.in_flight.insert(
            cookie,
            Change {
                blocks: blocks.clone(),
                tag,
            },
        );
        client.send(command, blocks.start, blocks.len() * BLOCK, payload)?;
        Ok(())
    }

    fn receive(&mut self, client: &mut Client) -> std::io::Result<()> {
        let (cookie, error) = client.receive()?;
        assert_eq!(error, 0, "a request failed");
        let Change { blocks, tag } = self.in_flight.remove(&cookie).expect("a request");
        self.tags[blocks].fill(tag);
        self.replies += 1;
        Ok(())
    }

    /// Writes until the connection breaks, and tells how many replies there were.
    fn write_until_killed(&mut self, client: &mut Client, replies: &AtomicU64) {
        loop {
            let done = match self.in_flight.len() < IN_FLIGHT_MAX {
                true => self.send(client),
                false => self.receive(client),
            };
            if done.is_err() {
                return;
            }
            replies.store(self.replies, Ordering::Relaxed);
        }
    }

    /// Compares the disk with what it must hold, and goes on from there.
    fn check(&mut self, client: &mut Client) {
        let found = tags(client);
        for (block, tag) in found.iter().enumerate() {
            let unsure = self.in_flight.values().find(|change| change.blocks.contains(&block));
            let is_right = *tag == self.tags[block] || unsure.is_some_and(|change| change.tag == *tag);
            assert!(is_right, "block {block} has {tag}, not {}", self.tags[block]);
        }
        self.tags = found;
        self.in_flight.clear();
        self.replies = 0;
    }
}

fn tags(client: &mut Client) -> Vec<u64> {
    let mut tags = Vec::new();
    for block in (0..BLOCKS).step_by(256) {
        let bytes = client.read(block, 256).expect("read");
        tags.extend(bytes.chunks(BLOCK).map(|block| {
            let words = block.as_chunks::<8>().0;
            assert!(words.iter().all(|word| *word == words[0]), "a block of two writes");
            u64::from_le_bytes(words[0])
        }));
    }
    tags
}

#[test]
fn nothing_that_was_acknowledged_is_lost_when_the_server_is_killed() {
    let from_environment = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seed = from_environment("FORKD_TEST_SEED").unwrap_or_else(|| u64::from(std::process::id()) * 0x9e37_79b9);
    println!("FORKD_TEST_SEED={seed}");
    let mut server = Server::start();
    let mut writer = Writer {
        random: Random(seed.max(1)),
        tags: vec![0; BLOCKS],
        in_flight: HashMap::new(),
        next_tag: 0,
        replies: 0,
    };
    let mut snapshots = Vec::new();
    let mut opened = server.open("disk", BLOCKS, &json!([]));
    for round in 0..from_environment("FORKD_TEST_KILLS").unwrap_or(KILLS) {
        let mut client = server.connect("disk").expect("connected");
        writer.check(&mut client);
        let layers = support::branch(&mut server, "disk", &opened);
        snapshots.push((layers, writer.tags.clone()));
        let (replies, wanted) = (AtomicU64::new(0), writer.random.below(400));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while replies.load(Ordering::Relaxed) < wanted {
                    std::thread::yield_now();
                }
                server.child.kill().expect("killed");
            });
            writer.write_until_killed(&mut client, &replies);
        });
        server.restart();
        server
            .connect("disk")
            .map(drop)
            .expect_err("nobody has asked for the disk yet");
        opened = server.open("disk", BLOCKS, &json!(null));
        if round % 4 == 0 {
            // A snapshot becomes a file of the store, under another name.
            let (layers, _) = snapshots.last_mut().expect("one");
            let blobs = server
                .request(json!({ "op": "persist", "layers": layers }))
                .expect("persisted");
            let digests = blobs["blobs"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|blob| blob["digest"].clone());
            *layers = digests.collect();
        }
    }
    writer.check(&mut server.connect("disk").expect("connected"));
    for (index, (layers, wanted)) in snapshots.iter().enumerate() {
        let key = format!("child-{index}");
        server.open(&key, BLOCKS, layers);
        let found = tags(&mut server.connect(&key).expect("connected"));
        assert!(found == *wanted, "snapshot {index} has changed");
    }
}
