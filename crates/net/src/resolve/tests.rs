use super::*;
use proptest::prelude::*;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(93, 184, 215, 14);

fn encode(name: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = name
        .split('.')
        .flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat())
        .collect();
    bytes.push(0);
    bytes
}

fn record(owner: &str, kind: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = encode(owner);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1, 0, 0, 0, 9]);
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
    bytes
}

fn reply(question: &str, records: &[Vec<u8>]) -> Vec<u8> {
    let header = [0, 7, 0x81, 0x80, 0, 1, 0, records.len() as u8, 0, 0, 0, 0];
    [&header[..], &encode(question), &[0, 1, 0, 1], &records.concat()].concat()
}

#[test]
fn aliases_lead_to_the_address_in_any_order() {
    let address = record("c.test", 1, &ADDRESS.octets());
    let aliases = [
        record("a.test", 5, &encode("b.test")),
        record("b.test", 5, &encode("C.test")),
    ];
    let found = Some(Resolved::Addresses(vec![ADDRESS]));
    assert_eq!(
        read(
            &reply("a.test", &[aliases[0].clone(), aliases[1].clone(), address.clone()]),
            7,
            "a.test"
        ),
        found
    );
    assert_eq!(
        read(
            &reply("A.test", &[address, aliases[1].clone(), aliases[0].clone()]),
            7,
            "a.test"
        ),
        found
    );
}

#[test]
fn addresses_of_other_names_and_endless_aliases_are_nothing() {
    let other = record("other.test", 1, &ADDRESS.octets());
    assert_eq!(read(&reply("a.test", &[other]), 7, "a.test"), Some(Resolved::Nothing));
    let circle = [
        record("a.test", 5, &encode("b.test")),
        record("b.test", 5, &encode("a.test")),
    ];
    assert_eq!(read(&reply("a.test", &circle), 7, "a.test"), Some(Resolved::Nothing));
    let mut refused = reply("a.test", &[]);
    refused[3] = 0x83;
    assert_eq!(read(&refused, 7, "a.test"), Some(Resolved::Nothing));
}

#[test]
fn a_forged_reply_is_not_this_questions() {
    let good = reply("a.test", &[record("a.test", 1, &ADDRESS.octets())]);
    assert_eq!(read(&good, 8, "a.test"), None);
    assert_eq!(read(&good, 7, "b.test"), None);
    let mut query = good.clone();
    query[2] = 1;
    assert_eq!(read(&query, 7, "a.test"), None);
}

proptest! {
    #[test]
    fn any_reply_is_read(bytes in prop::collection::vec(any::<u8>(), 0..600), count: u8) {
        read(&bytes, 7, "a.test");
        let header = [0, 7, 0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0];
        let message = [&header[..], &encode("a.test"), &[0, 1, 0, 1], &bytes].concat();
        read(&message, 7, "a.test");
    }
}
