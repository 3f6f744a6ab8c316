//! What is accepted as a handshake and what is not: each thing that can be wrong with one, sent over a real connection with
//! real descriptors, and lists of regions made at random. The VMM is this process.

mod common;

use common::{server, template};
use forkd_linux_sys::fds;
use forkd_linux_sys::memfd::Mapping;
use forkd_linux_sys::uffd::Userfaultfd;
use forkd_page_server::{PageError, PageServer, ServerOptions, SessionOptions, layout_from_json};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const AT: u64 = 0x7000_0000_0000;

fn region(base: u64, size: u64, offset: u64) -> Value {
    json!({ "base_host_virt_addr": base, "size": size, "offset": offset, "page_size": 4096 })
}

/// What the server says to `message`, which comes with `fds`.
fn answer(server: &PageServer, message: &str, fds: &[&dyn AsFd]) -> String {
    let (ours, theirs) = UnixStream::pair().expect("a connection");
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    fds::send_with_fds(&ours, message.as_bytes(), &fds).expect("it is sent");
    ours.shutdown(std::net::Shutdown::Write).expect("that is all");
    let answer = server.serve(theirs, template(256), SessionOptions::default());
    let error = answer.err().expect(message).to_string();
    // And it is hung up on.
    assert_eq!((&ours).read(&mut [0; 8]).unwrap_or(0), 0, "{message}");
    error
}

#[test]
fn each_thing_that_is_wrong_is_named() {
    let server = server();
    let uffd = Userfaultfd::create_for_pages().expect("the right to it");
    let lists = [
        (json!([]), "0 regions"),
        (
            json!([region(AT, MIB, 0), region(AT + MIB / 2, MIB / 2, 0)]),
            "region 1: its addresses",
        ),
        (
            json!([region(AT, MIB / 2, 0), region(AT + MIB, MIB / 2, MIB / 4)]),
            "overlap",
        ),
        (json!([region(AT + 1, MIB, 0)]), "region 0: address 0x700000000001"),
        (json!([region(AT, MIB - 1, 0)]), "no multiple"),
        (json!([region(AT, 4096, 8)]), "no multiple"),
        (json!([region(AT, 0, 0)]), "empty"),
        (json!([region(u64::MAX - 4095, 8192, 0)]), "end of an address space"),
        (json!([region(AT, u64::MAX - 4095, 0)]), "end of an address space"),
        (json!([region(AT, 4096, u64::MAX - 4095)]), "beyond the template"),
        (
            json!([region(AT, 2 * MIB, 0)]),
            "beyond the template, which has 1048576 bytes",
        ),
        (
            json!([{ "base_host_virt_addr": AT, "size": MIB, "offset": 0 }]),
            "no page size",
        ),
        (
            json!([{ "base_host_virt_addr": AT, "size": MIB, "offset": 0, "page_size": 8192 }]),
            "8192 bytes",
        ),
        (
            json!([{ "base_host_virt_addr": AT, "size": MIB, "offset": 0, "page_size_kib": 4 }]),
            "page of 4 bytes",
        ),
        (
            json!([{ "base_host_virt_addr": AT, "size": MIB, "offset": 0, "page_size": 4096, "page_size_kib": 2 * MIB }]),
            "4096 and 2097152",
        ),
        (
            json!([{ "size": MIB, "offset": 0, "page_size": 4096 }]),
            "base_host_virt_addr",
        ),
        (json!([region(AT, MIB, 0), { "size": -1 }]), "no list of regions"),
        (json!({ "regions": [] }), "no list of regions"),
        (Value::from(vec![region(AT, 4096, 0); 65]), "65 regions"),
    ];
    for (list, wanted) in lists {
        let reason = answer(&server, &list.to_string(), &[&uffd]);
        assert!(reason.contains(wanted), "{list}: {reason}");
    }
    let texts = [
        ("GET / HTTP/1.1\r\n\r\n", "no list of regions"),
        ("[{\"base_host", "hung up after 12 bytes"),
        ("\u{0}\u{0}", "no list of regions"),
        ("[] []", "no list of regions"),
    ];
    for (text, wanted) in texts {
        let reason = answer(&server, text, &[&uffd]);
        assert!(reason.contains(wanted), "{text:?}: {reason}");
    }
    let health = server.health();
    assert_eq!(
        (health.forks, health.handshakes, health.accepted),
        (0, 0, 0),
        "{health:?}"
    );
}

#[test]
fn exactly_one_userfaultfd_must_come_with_it() {
    let server = server();
    let uffd = Userfaultfd::create_for_pages().expect("the right to it");
    let null = File::open("/dev/null").expect("it is there");
    let blind = Userfaultfd::create().expect("the right to it");
    let good = json!([region(AT, MIB, 0)]).to_string();
    let cases: [(&[&dyn AsFd], &str); 5] = [
        (&[], "0 descriptors"),
        (&[&uffd, &null], "2 descriptors"),
        (&[&uffd, &uffd, &null], "3 descriptors"),
        (&[&null], "/dev/null and no userfaultfd"),
        (&[&blind], "does not report memory that is given back"),
    ];
    for (fds, wanted) in cases {
        let reason = answer(&server, &good, fds);
        assert!(reason.contains(wanted), "{wanted}: {reason}");
    }
}

#[test]
fn who_says_nothing_or_too_much_is_hung_up_on_in_time() {
    let handshake_patience = Duration::from_millis(200);
    let server = PageServer::start(ServerOptions {
        handshake_patience,
        ..ServerOptions::default()
    })
    .expect("a server");
    for said in ["", "[", "[{\"base_host_virt_addr\": 1"] {
        let (mut ours, theirs) = UnixStream::pair().expect("a connection");
        ours.write_all(said.as_bytes()).expect("it is sent");
        let answer = server.serve(theirs, template(16), SessionOptions::default());
        let reason = answer.err().expect("refused").to_string();
        assert!(reason.contains("within 200ms"), "{reason}");
    }
    let (mut ours, theirs) = UnixStream::pair().expect("a connection");
    let flood = std::thread::spawn(move || ours.write_all(&[b' '; 1 << 20]));
    let reason = server
        .serve(theirs, template(16), SessionOptions::default())
        .err()
        .expect("refused");
    assert!(reason.to_string().contains("longer than"), "{reason}");
    flood.join().expect("no panic").expect_err("nobody reads the rest");
}

/// A message may come in pieces: where it ends is known from itself.
#[test]
fn a_handshake_in_pieces_is_one() {
    let server = server();
    let memory = Mapping::anonymous(MIB as usize).expect("memory");
    let start = memory.target(0, 1) as u64;
    let uffd = Userfaultfd::create_for_pages().expect("the right to it");
    let message = json!([region(start, MIB, 0)]).to_string();
    let (mut ours, theirs) = UnixStream::pair().expect("a connection");
    let pieces = std::thread::scope(|scope| {
        let served = scope.spawn(|| server.serve(theirs, template(256), SessionOptions::default()));
        fds::send_with_fds(&ours, &message.as_bytes()[..5], &[uffd.as_fd()]).expect("it is sent");
        std::thread::sleep(Duration::from_millis(20));
        ours.write_all(&message.as_bytes()[5..]).expect("it is sent");
        served.join().expect("no panic")
    });
    let session = pieces.expect("it is accepted");
    assert_eq!(session.pid() as u32, std::process::id());
    // Given up, it would end this process.
    std::mem::forget(session);
    std::mem::forget(server);
}

#[test]
fn there_is_a_limit_and_an_end_to_what_is_accepted() {
    let server = PageServer::start(ServerOptions {
        forks_max: 0,
        ..ServerOptions::default()
    })
    .expect("a server");
    let serve = |server: &PageServer| {
        let (_ours, theirs) = UnixStream::pair().expect("a connection");
        server
            .serve(theirs, template(16), SessionOptions::default())
            .err()
            .expect("refused")
    };
    assert!(matches!(serve(&server), PageError::Full { limit: 0 }));
    let server = common::server();
    assert!(server.drain(Duration::from_secs(1)), "there is nobody to wait for");
    assert!(matches!(serve(&server), PageError::Draining));
    assert_eq!(server.health().refused, 1);
}

proptest! {
    /// Whatever is accepted keeps what the rest relies on, and nothing that keeps it is refused.
    #[test]
    fn a_layout_is_accepted_if_and_only_if_it_is_sound(
        regions in prop::collection::vec((0u64..64, 0u64..20, 0u64..80, prop::sample::select(vec![1u64, 1, 1, 3])), 0..5)
    ) {
        const TEMPLATE: u64 = 64;
        let list: Vec<Value> = regions
            .iter()
            .map(|&(address, size, offset, page)| json!({
                "base_host_virt_addr": AT + address * 4096, "size": size * 4096, "offset": offset * 4096,
                "page_size_kib": page * 4096,
            }))
            .collect();
        let apart = |a: (u64, u64), b: (u64, u64)| a.0 + a.1 <= b.0 || b.0 + b.1 <= a.0;
        let sound = !regions.is_empty()
            && regions.iter().all(|&(_, size, offset, page)| size > 0 && page == 1 && offset + size <= TEMPLATE)
            && regions.iter().enumerate().all(|(i, a)| regions[..i].iter().all(|b| {
                apart((a.0, a.1), (b.0, b.1)) && apart((a.2, a.1), (b.2, b.1))
            }));
        let layout = layout_from_json(Value::from(list).to_string().as_bytes(), TEMPLATE * 4096);
        prop_assert_eq!(layout.is_ok(), sound, "{:?}", layout);
        if let Ok(Some(layout)) = layout {
            for &(address, size, offset, _) in &regions {
                for page in 0..size {
                    let at = AT + (address + page) * 4096;
                    let region = layout.at(at).expect("it is in a region");
                    prop_assert_eq!(region.page_at(at), offset + page);
                    prop_assert_eq!(region.memory_of(offset + page..offset + page + 1).start, at);
                    prop_assert_eq!(layout.having(offset + page), Some(region));
                }
            }
        }
    }

    /// No bytes at all make it panic, and none are taken for complete that are not.
    #[test]
    fn any_bytes_are_accepted_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..90) {
        let _ = layout_from_json(&bytes, 1 << 20);
        let good = json!([region(AT, MIB, 0)]).to_string();
        let part = &good.as_bytes()[..cut.min(good.len())];
        let complete = part.len() == good.len();
        prop_assert_eq!(layout_from_json(part, MIB).map(|layout| layout.is_some()).ok(), Some(complete));
    }
}
