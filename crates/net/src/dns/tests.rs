use super::*;
use crate::ledger;
use forkd_protocol::net::{Policy, Rule, Target, Verdict};
use proptest::prelude::*;

fn open() -> (Rules, Ledger) {
    let rule = Rule {
        text: "*.test".into(),
        verdict: Verdict::Allow,
        to: Target::Below { name: "test".into() },
        ports: vec![],
        transport: None,
    };
    let rules = Rules::new(Policy { rules: vec![rule] }).expect("a policy");
    let file = ledger::create().expect("a file");
    (rules, Ledger::open(&file).expect("a ledger").0)
}

fn query(labels: &[&[u8]], kind: u16, class: u16) -> Vec<u8> {
    let mut query = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in labels {
        query.push(label.len() as u8);
        query.extend(*label);
    }
    query.push(0);
    query.extend([kind.to_be_bytes(), class.to_be_bytes()].concat());
    query
}

#[test]
fn a_reply_repeats_the_question_and_has_one_address() {
    let (rules, mut ledger) = open();
    let query = query(&[b"Api", b"TEST"], TYPE_A, CLASS_IN);
    let answer = answer(&query, &rules, &mut ledger).expect("an answer");
    assert_eq!(answer.reply[..4], [1, 2, 0x81, 0x80]);
    assert_eq!(answer.reply[4..12], [0, 1, 0, 1, 0, 0, 0, 0]);
    assert_eq!(answer.reply[12..query.len()], query[12..]);
    assert!(answer.reply.ends_with(&[0, 4, 198, 18, 0, 1]));
    assert_eq!(answer.refused, None);
}

#[test]
fn names_that_are_no_host_names_do_not_exist() {
    let (rules, mut ledger) = open();
    let label = [b'a'; 63];
    let too_long: [&[u8]; 5] = [&label, &label, &label, &label, b"test"];
    let odd: [&[u8]; 4] = [b"a.b", b"sp ace", &[0xff, 0xfe], b"*"];
    let odd = odd.map(|label| vec![label, b"test"]);
    for labels in [vec![], too_long.to_vec()].into_iter().chain(odd) {
        let answer = answer(&query(&labels, TYPE_A, CLASS_IN), &rules, &mut ledger).expect("an answer");
        assert_eq!(
            (answer.reply[3] & 0xf, answer.reply[7]),
            (NO_SUCH_NAME, 0),
            "{labels:?}"
        );
    }
    let chaos = answer(&query(&[b"a", b"test"], TYPE_A, 3), &rules, &mut ledger).expect("an answer");
    assert_eq!(chaos.reply[3] & 0xf, NOT_IMPLEMENTED);
}

#[test]
fn messages_that_are_no_single_query_get_no_reply() {
    let (rules, mut ledger) = open();
    let good = query(&[b"a", b"test"], TYPE_A, CLASS_IN);
    let changed = |at: usize, byte: u8| {
        let mut query = good.clone();
        query[at] = byte;
        query
    };
    let wrong = [
        ("a reply", changed(2, 0x80)),
        ("a status request", changed(2, 0x10)),
        ("no question", changed(5, 0)),
        ("two questions", changed(5, 2)),
        ("an answer in the query", changed(7, 1)),
        ("a compressed name", changed(12, 0xc0)),
        ("a label of 64 bytes", changed(12, 64)),
        ("a cut query", good[..good.len() - 1].to_vec()),
        ("a header alone", good[..12].to_vec()),
        ("nothing", vec![]),
    ];
    for (what, query) in wrong {
        assert_eq!(answer(&query, &rules, &mut ledger), None, "{what}");
    }
}

proptest! {
    #[test]
    fn any_message_is_read(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let (rules, mut ledger) = open();
        answer(&bytes, &rules, &mut ledger);
        let query = [&[1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &bytes].concat();
        if let Some(answer) = answer(&query, &rules, &mut ledger) {
            prop_assert!(answer.reply.len() <= query.len() + 16);
        }
    }
}
