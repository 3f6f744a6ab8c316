//! A host without space: writes fail as such, nothing that was written is lost, and the disk goes on once there is space again.

mod support;

use serde_json::json;
use support::{BLOCK, Server, TRIM};

const ENOSPC: u32 = 28;
const BLOCKS: usize = 4096;
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
    // What is there already can be written again.
    client.write(0, &[77; BLOCK]).expect("written in place");
    // A snapshot needs no space, and a write after it does.
    let layers = support::branch(&mut server, "disk", &opened);
    assert_eq!(
        client
            .ask(support::WRITE, 0, STEP * BLOCK, &content(0))
            .expect("a reply"),
        ENOSPC
    );
    assert_eq!(usage(&mut server)["full"], json!(true));
    server
        .request(json!({ "op": "drop", "layers": layers }))
        .expect("dropped");
    server
        .request(json!({ "op": "open", "key": "small", "size_bytes": BLOCK, "layers": [], "pid": null }))
        .expect_err("no space");
    // The file system that holds the store grows.
    server.resize_memory("8m");
    client.write(0, &content(0)).expect("written");
    assert_eq!(usage(&mut server)["full"], json!(false));
    assert_eq!(client.ask(TRIM, 0, full_at * BLOCK, &[]).expect("a reply"), 0);
    client.write(full_at, &content(full_at)).expect("written");
    for block in (0..full_at).step_by(STEP) {
        assert_eq!(
            client.read(block, STEP).expect("read"),
            vec![0; STEP * BLOCK],
            "block {block}"
        );
    }
    assert_eq!(client.read(full_at, STEP).expect("read"), content(full_at));
}
