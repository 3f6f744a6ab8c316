use super::*;

fn connection(guest_port: u16) -> Connection {
    Connection {
        guest_port,
        address: Ipv4Addr::new(198, 18, 0, 1),
        port: 443,
        next_sequence: 7,
    }
}

fn new() -> (File, Ledger) {
    let file = create().expect("a file");
    let (ledger, left) = Ledger::open(&file).expect("a ledger");
    assert!(left.is_empty());
    (file, ledger)
}

#[test]
fn the_next_process_finds_names_and_open_connections() {
    let (file, mut ledger) = new();
    let offsets: Vec<u32> = ["a.test", "b.test", "a.test"].map(|name| ledger.offset(name)).to_vec();
    assert_eq!(offsets, [1, 2, 1]);
    let slot = ledger.opened(&connection(1_000)).expect("a slot");
    ledger.sent(slot, 99);
    let (mut next, left) = Ledger::open(&file).expect("a ledger");
    assert_eq!(
        left,
        [Connection {
            next_sequence: 99,
            ..connection(1_000)
        }]
    );
    assert_eq!(
        (next.name(1).as_deref(), next.name(2).as_deref()),
        (Some("a.test"), Some("b.test"))
    );
    assert_eq!((next.offset("b.test"), next.offset("c.test")), (2, 3));
    assert!(next.inherited().connections.is_empty());
}

#[test]
fn the_oldest_name_makes_room_and_its_address_means_nothing() {
    let (file, mut ledger) = new();
    for number in 0..NAMES + 10 {
        ledger.offset(&format!("n{number}.test"));
    }
    assert_eq!(ledger.name(10), None);
    assert_eq!(ledger.name(11).as_deref(), Some("n10.test"));
    assert_eq!(ledger.inherited().names.len(), NAMES);
    // The next process continues where this one was.
    let (mut next, _) = Ledger::open(&file).expect("a ledger");
    assert_eq!(next.offset("new.test") as usize, NAMES + 11);
    assert_eq!(next.offset("n0.test") as usize, NAMES + 12);
}

#[test]
fn offsets_begin_anew_only_after_the_whole_range() {
    let (_file, mut ledger) = new();
    for number in 1..OFFSETS {
        assert_eq!(ledger.offset(&format!("n{number}.test")), number);
    }
    assert_eq!(ledger.offset("first-again.test"), 1);
    assert_eq!(ledger.name(1).as_deref(), Some("first-again.test"));
    let names = ledger.inherited().names;
    assert_eq!(names.last().map(|name| name.offset), Some(1));
}

#[test]
fn a_fork_inherits_names_of_any_length_within_a_limit() {
    let (_file, mut ledger) = new();
    let label = "a".repeat(60);
    for number in 0..NAMES {
        ledger.offset(&format!("n{number}.{label}.{label}.{label}"));
    }
    let inherited = ledger.inherited();
    let json = serde_json::to_vec(&inherited).expect("plain data");
    assert!(json.len() < 256 << 10, "{}", json.len());
    assert_eq!(inherited.names.last().map(|name| name.offset as usize), Some(NAMES));
}

#[test]
fn a_lying_mark_cannot_break_a_ledger() {
    let (_file, mut ledger) = new();
    let name = |offset, name: &str| SyntheticName {
        offset,
        name: name.into(),
    };
    let long = "a".repeat(300);
    ledger.inherit(vec![
        name(0, "zero.test"),
        name(OFFSETS, "far.test"),
        name(u32::MAX, "max.test"),
        name(5, &long),
    ]);
    ledger.inherit(vec![name(6, "Bad Name"), name(7, "good.test"), name(8, "good.test")]);
    assert_eq!(ledger.inherited().names, [name(7, "good.test")]);
}

#[test]
fn a_closed_connection_stays_listed_and_gives_up_its_place_last() {
    let (_file, mut ledger) = new();
    let slots: Vec<usize> = (1..=CONNECTIONS as u16)
        .map(|port| ledger.opened(&connection(port)).expect("a slot"))
        .collect();
    assert_eq!(ledger.opened(&connection(60_000)), None);
    ledger.closed(slots[0]);
    ledger.closed(slots[1]);
    assert_eq!(ledger.inherited().connections.len(), CONNECTIONS);
    assert_eq!(ledger.opened(&connection(60_000)), Some(slots[0]));
    let listed = ledger.inherited().connections;
    assert!(listed.contains(&connection(2)) && !listed.contains(&connection(1)));
}

#[test]
fn a_fork_of_a_sandbox_that_has_used_the_whole_range_finds_every_name() {
    let (_file, mut source) = new();
    for number in 0..OFFSETS + 10 {
        source.offset(&format!("n{number}.test"));
    }
    let inherited = source.inherited();
    let (file, mut child) = new();
    child.inherit(inherited.names.clone());
    assert_eq!(child.inherited(), inherited);
    assert_eq!(child.offset("new.test"), source.offset("new.test"));
    let (next, _) = Ledger::open(&file).expect("a ledger");
    assert_eq!(next.inherited().names, child.inherited().names);
}
