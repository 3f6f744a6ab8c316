//! The format holds what it was given, and refuses everything else.

use super::*;
use std::io::{Seek, SeekFrom};

const LENGTH: u64 = 64 * PAGE_SIZE as u64;

fn sample(is_base: bool) -> Layer {
    let memory = memfd::create(c"test-layer", LENGTH).expect("memfd");
    let target = Mapping::read_write(&memory, LENGTH as usize).expect("map");
    let mut slot = 0;
    let mut extents = Vec::new();
    for (page, pages) in [(1, 2), (5, 1), (60, 4)] {
        let at = if is_base { page } else { slot };
        (at..at + pages).for_each(|i| target.write(i as usize * PAGE_SIZE, &[i as u8 + 1; PAGE_SIZE]));
        extents.push(Extent { page, slot: at, pages });
        slot += pages;
    }
    drop(target);
    Layer::seal(memory, LENGTH, is_base, extents, Durability::Pending).expect("seal")
}

fn stored(layer: &Layer) -> (Vec<u8>, String) {
    let mut bytes = Vec::new();
    let blob = write(layer, &mut bytes, || false).expect("write");
    assert_eq!(
        (blob.size, blob.digest.as_str()),
        (bytes.len() as u64, digest_of(&bytes).as_str())
    );
    (bytes, blob.digest)
}

fn load(bytes: &[u8], digest: &str) -> Result<Layer> {
    let mut file = memfd::create(c"test-file", 0).expect("memfd");
    file.write_all(bytes).expect("write");
    file.seek(SeekFrom::Start(0)).expect("seek");
    read(&mut file, digest)
}

#[test]
fn a_layer_comes_back_as_it_was_written() {
    for is_base in [true, false] {
        let layer = sample(is_base);
        let (bytes, digest) = stored(&layer);
        let again = load(&bytes, &digest).expect("load");
        assert_eq!(
            (again.is_base, again.length, &again.extents),
            (is_base, LENGTH, &layer.extents)
        );
        for extent in &layer.extents {
            assert_eq!(
                again.content(extent.slot, extent.pages),
                layer.content(extent.slot, extent.pages)
            );
        }
    }
}

#[test]
fn a_flipped_or_missing_or_added_byte_is_refused_and_the_layer_named() {
    let (bytes, digest) = stored(&sample(false));
    let refused = |bytes: &[u8], what: &str| {
        let error = load(bytes, &digest).expect_err(what);
        assert_eq!(error.kind, LayerErrorKind::Damaged, "{what}: {error}");
        assert!(error.message.contains(&digest), "{what}: {error}");
    };
    for at in (0..100).chain((100..bytes.len()).step_by(997)) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        refused(&flipped, &format!("byte {at} flipped"));
    }
    for length in [0, 7, 39, 40, 100, 4096, bytes.len() - 1] {
        refused(&bytes[..length], &format!("cut to {length} bytes"));
    }
    refused(&[&bytes[..], &[0]].concat(), "a byte added");
}

#[test]
fn an_index_that_lies_is_refused_before_it_is_used() {
    let (bytes, _) = stored(&sample(false));
    // Each has the right digest for its wrong content.
    for (at, value) in [
        (16, u64::MAX),
        (24, 1 << 40),
        (32, 3),
        (HEADER_BYTES, 63),
        (HEADER_BYTES + 8, 0),
    ] {
        let mut wrong = bytes.clone();
        wrong[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let error = load(&wrong, &digest_of(&wrong)).expect_err("an impossible index");
        assert_eq!(error.kind, LayerErrorKind::Damaged, "{error}");
    }
}

#[test]
fn the_decoder_survives_any_bytes() {
    let mut seed = 0x5eed_u64;
    for _ in 0..2000 {
        let mut bytes: Vec<u8> = Vec::new();
        let (mut head, length) = (sample_header(&mut seed), next(&mut seed) as usize % 9000);
        bytes.append(&mut head);
        bytes.resize_with(length.max(8), || next(&mut seed) as u8);
        assert!(load(&bytes, &digest_of(&bytes)).is_err_and(|error| error.kind == LayerErrorKind::Damaged));
    }
}

/// A header that is half right, so that the decoder gets past its first check now and then.
fn sample_header(seed: &mut u64) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&((next(seed) % 2) as u32).to_le_bytes());
    for _ in 0..3 {
        head.extend_from_slice(&(next(seed) % (1 << (1 + next(seed) % 40))).to_le_bytes());
    }
    head
}

fn next(seed: &mut u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *seed >> 20
}
