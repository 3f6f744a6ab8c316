//! Proves that the decoder finds every good frame whatever stands before, between and after, however the bytes are cut,
//! and that it never takes garbage for a frame. The vectors are those that the TypeScript end is held to.

use super::*;
use proptest::prelude::*;

fn decode_all(chunks: &[&[u8]]) -> Vec<Frame> {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for chunk in chunks {
        let mut rest = *chunk;
        while !rest.is_empty() {
            let (taken, frame) = decoder.next(rest);
            rest = &rest[taken..];
            frames.extend(frame);
        }
    }
    frames
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Open),
        Just(Kind::OpenAck),
        Just(Kind::Data),
        Just(Kind::Close)
    ]
}

fn frames() -> impl Strategy<Value = Frame> {
    (
        kinds(),
        any::<u32>(),
        prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..1200),
    )
        .prop_map(|(kind, connection, payload)| Frame {
            kind,
            connection,
            payload,
        })
}

fn bytes_of(frame: &Frame) -> Vec<u8> {
    encode(frame.kind, frame.connection, &[&frame.payload])
}

proptest! {
    #[test]
    fn cobs_round_trips(data in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..2000)) {
        let mut encoded = Vec::new();
        cobs::encode(&data, &mut encoded);
        prop_assert!(!encoded.contains(&0));
        let mut decoded = Vec::new();
        prop_assert!(cobs::decode(&encoded, &mut decoded));
        prop_assert_eq!(decoded, data);
    }

    #[test]
    fn good_frames_are_found_among_garbage(
        items in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), frames()), 1..8),
        cut in 1usize..700,
    ) {
        let mut stream = Vec::new();
        for (garbage, frame) in &items {
            stream.extend_from_slice(garbage);
            stream.push(0);
            stream.extend(bytes_of(frame));
        }
        let chunks: Vec<&[u8]> = stream.chunks(cut).collect();
        let expected: Vec<Frame> = items.into_iter().map(|(_, frame)| frame).collect();
        prop_assert_eq!(decode_all(&chunks), expected);
    }

    #[test]
    fn a_truncated_frame_costs_only_itself(first in frames(), second in frames(), cut in any::<prop::sample::Index>()) {
        let whole = bytes_of(&first);
        let partial = &whole[..cut.index(whole.len() - 1)];
        prop_assert_eq!(decode_all(&[partial, &[0], &bytes_of(&second)]), vec![second]);
    }

    #[test]
    fn a_damaged_byte_is_noticed(frame in frames(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut bytes = bytes_of(&frame);
        let at = at.index(bytes.len() - 1);
        bytes[at] ^= flip;
        prop_assert!(!decode_all(&[&bytes]).contains(&frame));
    }
}

#[test]
fn a_run_without_delimiter_is_not_kept() {
    let mut decoder = Decoder::default();
    for _ in 0..100 {
        decoder.next(&[7; 64 * 1024]);
    }
    assert!(decoder.pending.capacity() <= 4 * ENCODED_MAX);
    let frame = Frame {
        kind: Kind::Data,
        connection: 9,
        payload: vec![0; PAYLOAD_MAX],
    };
    let mut bytes = vec![0];
    bytes.extend(bytes_of(&frame));
    assert_eq!(decoder.next(&bytes).1, Some(frame));
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex"))
        .collect()
}

#[test]
fn shared_vectors() {
    let text = include_str!("../../../../packages/guest/test/vectors/frames.json");
    let vectors: serde_json::Value = serde_json::from_str(text).expect("JSON");
    for vector in vectors["frames"].as_array().expect("frames") {
        let payload = from_hex(vector["payload"].as_str().expect("payload"))
            .repeat(vector["repeat"].as_u64().unwrap_or(1) as usize);
        let frame = Frame {
            kind: Kind::from_byte(vector["kind"].as_u64().expect("kind") as u8).expect("known kind"),
            connection: vector["connection"].as_u64().expect("connection") as u32,
            payload,
        };
        let bytes = from_hex(vector["bytes"].as_str().expect("bytes"));
        if !bytes.is_empty() {
            assert_eq!(bytes_of(&frame), bytes, "{}", vector["name"]);
        }
        let crc = crc32fast::hash(&bytes_of(&frame));
        assert_eq!(
            u64::from(crc),
            vector["crc32_of_bytes"].as_u64().expect("crc"),
            "{}",
            vector["name"]
        );
        assert_eq!(decode_all(&[&bytes_of(&frame)]), vec![frame]);
    }
    for vector in vectors["streams"].as_array().expect("streams") {
        let found: Vec<u64> = decode_all(&[&from_hex(vector["bytes"].as_str().expect("bytes"))])
            .iter()
            .map(|frame| u64::from(frame.connection))
            .collect();
        let expected: Vec<u64> = vector["connections"]
            .as_array()
            .expect("connections")
            .iter()
            .map(|id| id.as_u64().expect("id"))
            .collect();
        assert_eq!(found, expected, "{}", vector["name"]);
    }
}
