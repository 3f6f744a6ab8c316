use super::*;
use proptest::prelude::*;

fn vector(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(content)].concat()
}

fn server_name(names: &[&str]) -> Vec<u8> {
    let entries: Vec<u8> = names
        .iter()
        .flat_map(|name| [&[0][..], &vector(name.as_bytes())].concat())
        .collect();
    extension(EXTENSION_SERVER_NAME, &vector(&entries))
}

fn hello_with(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(vector(extensions));
    let message = [&[MESSAGE_CLIENT_HELLO, 0][..], &vector(&body)].concat();
    [&[RECORD_HANDSHAKE, 3, 1][..], &vector(&message)].concat()
}

#[test]
fn a_hello_is_incomplete_until_its_last_byte() {
    let hello = hello_with(&server_name(&["api.test"]));
    for length in 0..hello.len() {
        assert_eq!(read(&hello[..length]), Opening::Incomplete, "{length} bytes");
    }
    let whole = Opening::Hello {
        server_name: Some("api.test".into()),
        is_encrypted: false,
    };
    assert_eq!(read(&hello), whole);
    // The records of early data may follow.
    assert_eq!(read(&[&hello[..], &[23, 3, 3, 0, 1, 7]].concat()), whole);
}

#[test]
fn what_two_readers_could_read_differently_is_malformed() {
    let twice = [server_name(&["api.test"]), server_name(&["evil.test"])].concat();
    let trailing = |mut hello: Vec<u8>| {
        hello.push(0);
        hello[4] += 1;
        hello
    };
    let malformed = [
        hello_with(&twice),
        hello_with(&server_name(&["api.test", "evil.test"])),
        hello_with(&server_name(&[])),
        hello_with(&extension(EXTENSION_SERVER_NAME, &[])),
        hello_with(&extension(EXTENSION_SERVER_NAME, &[0, 4, 1, 0, 1, b'a'])),
        hello_with(&server_name(&["ä.test"])),
        trailing(hello_with(&server_name(&["api.test"]))),
        vec![RECORD_HANDSHAKE, 3, 1, 0, 0],
        vec![RECORD_HANDSHAKE, 3, 1, 0, 1, 2],
        // A record of another type in the middle of the message.
        [&[RECORD_HANDSHAKE, 3, 1, 0, 1, 1][..], &[23, 3, 1, 0, 1, 1]].concat(),
    ];
    for bytes in malformed {
        assert_eq!(read(&bytes), Opening::Malformed, "{bytes:?}");
    }
}

#[test]
fn a_hello_in_too_many_records_or_bytes_is_malformed() {
    let one_byte_each: Vec<u8> = (0..RECORDS_MAX)
        .flat_map(|at| [22, 3, 1, 0, 1, u8::from(at == 0)])
        .collect();
    assert_eq!(read(&one_byte_each), Opening::Malformed);
    assert_eq!(read(&[22, 3, 1, 0x3f, 0, 1, 1, 0, 0]), Opening::Malformed);
}

proptest! {
    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        read(&bytes);
        read(&[&[22, 3, 1][..], &bytes].concat());
    }

    #[test]
    fn a_changed_hello_never_becomes_incomplete_forever(at in 0usize..90, byte: u8) {
        let mut hello = hello_with(&server_name(&["api.test"]));
        if let Some(place) = hello.get_mut(at) {
            *place = byte;
        }
        hello.resize(HELLO_BYTES_MAX, 0);
        prop_assert_ne!(read(&hello), Opening::Incomplete);
    }

    #[test]
    fn a_hello_is_read_alike_however_it_is_cut_into_records(cut in 1usize..60) {
        let hello = hello_with(&server_name(&["api.test"]));
        let (one, two) = hello[5..].split_at(cut);
        let record = |part: &[u8]| [&[22, 3, 3][..], &vector(part)].concat();
        prop_assert_eq!(read(&[record(one), record(two)].concat()), read(&hello));
    }
}
