//! A host without space: writes fail as such, nothing that was written is lost, and the disk goes on once there is space again.

mod support;

use serde_json::json;
use std::time::{Duration, Instant};
use support::{BLOCK, Client, Server, TRIM};

const ENOSPC: u32 = 28;
const BLOCKS: usize = 4096;
/// Longest wait for space that was freed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Blocks per request.
const STEP: usize = 16;

#[test]
fn a_full_host_fails_writes_and_loses_nothing() {
    let mut server = Server::start_in_memory("4m");
    let opened = server.open("disk", BLOCKS, &json!([]));
    let mut client = server.connect("disk").expect("connected");
    let content = |block: usize| vec![block as u8 | 1; STEP * BLOCK];
    let full_at = (0..BLOCKS).step_by(STEP).find(|block| {
        let error = client
            .ask(support::WRITE, *block, STEP * BLOCK, &content(*block))
            .expect("a reply");
        assert!(error == 0 || error == ENOSPC, "error {error}");
        error == ENOSPC
    });
    let full_at = full_at.expect("16 MiB do not fit into 4");
    let usage = |server: &mut Server| server.request(json!({ "op": "usage", "key": "disk" })).expect("usage");
    assert_eq!(usage(&mut server)["full"], json!(true));
    for block in (0..full_at).step_by(STEP) {
        assert_eq!(client.read(block, STEP).expect("read"), content(block), "block {block}");
    }
    assert_eq!(client.read(full_at, STEP).expect("read"), vec![0; STEP * BLOCK]);
    // Bytes that are there already can be written again.
    client.write(0, &[77; BLOCK]).expect("written in place");
    // A snapshot needs no space, and a write after it does. Writing again and again leaves nothing behind.
    let layers = support::branch(&mut server, "disk", &opened);
    let mut files = Vec::new();
    for _ in 0..5 {
        let error = client.ask(support::WRITE, 0, STEP * BLOCK, &content(0));
        assert_eq!(error.expect("a reply"), ENOSPC);
        files.push(server.files());
    }
    // The files of the next layer may come and go meanwhile.
    assert!(files[4] <= files[0] + 2, "{files:?}");
    assert_eq!(usage(&mut server)["full"], json!(true));
    let small = json!({ "op": "open", "key": "small", "size_bytes": BLOCK, "layers": [], "pid": null });
    server.request(small).expect_err("no space");
    server
        .request(json!({ "op": "drop", "layers": layers }))
        .expect("dropped");
    // The file system that holds the store grows.
    server.resize_memory("8m");
    client.write(0, &content(0)).expect("written");
    assert_eq!(usage(&mut server)["full"], json!(false));
    for block in (STEP..full_at).step_by(STEP) {
        assert_eq!(client.read(block, STEP).expect("read"), content(block), "block {block}");
    }
}

#[test]
fn space_that_a_guest_frees_goes_back_to_the_host() {
    let mut server = Server::start_in_memory("4m");
    server.open("first", BLOCKS, &json!([]));
    server.open("second", BLOCKS, &json!([]));
    let (mut first, mut second) = (
        server.connect("first").expect("connected"),
        server.connect("second").expect("connected"),
    );
    let content = vec![7; 3 << 20];
    let all = content.len() / BLOCK;
    for (index, part) in content.chunks(1 << 20).enumerate() {
        first.write(index << 8, part).expect("written");
    }
    let fill = |client: &mut Client| {
        let mut parts = content.chunks(1 << 20).enumerate();
        parts.try_for_each(|(index, part)| client.write(index << 8, part))
    };
    let error = fill(&mut second).expect_err("6 MiB do not fit into 4");
    assert_eq!(error.raw_os_error(), Some(ENOSPC as i32));
    assert_eq!(first.ask(TRIM, 0, all * BLOCK, &[]).expect("a reply"), 0);
    // The reply comes before the space is back.
    let start = Instant::now();
    while fill(&mut second).is_err() {
        assert!(start.elapsed() < PATIENCE, "the space does not come back");
    }
    assert_eq!(first.read(0, 512).expect("read"), vec![0; 512 * BLOCK]);
    assert_eq!(second.read(0, 512).expect("read"), &content[..512 * BLOCK]);
}
