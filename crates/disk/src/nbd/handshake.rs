//! The negotiation of an export.

use crate::nbd::PAYLOAD_BYTES_MAX;
use forkd_protocol::disk::BLOCK_SIZE;
use std::io::{self, Error, ErrorKind, Read, Write};

const GREETING: &[u8; 16] = b"NBDMAGICIHAVEOPT";
const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

const FLAG_FIXED_NEWSTYLE: u16 = 1;
const FLAG_NO_ZEROES: u16 = 1 << 1;

/// The flags of an export: there are flags, trim, and writes of zeros.
const EXPORT_FLAGS: u16 = 1 | 1 << 5 | 1 << 6;

const OPTION_EXPORT_NAME: u32 = 1;
const OPTION_ABORT: u32 = 2;
const OPTION_INFO: u32 = 6;
const OPTION_GO: u32 = 7;

const ACK: u32 = 1;
const INFO: u32 = 3;
const ERROR_UNSUPPORTED: u32 = 1 << 31 | 1;
const ERROR_POLICY: u32 = 1 << 31 | 2;
const ERROR_INVALID: u32 = 1 << 31 | 3;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

/// The most bytes of an option. The longest that is understood has a name of 64.
const OPTION_BYTES_MAX: u32 = 4096;

/// The most options of one handshake. QEMU sends three.
const OPTIONS_MAX: usize = 32;

/// Negotiates with a client. `admit` returns the export of a name, or `None` if there is none for this client; `size` is the size of an
/// export in bytes. Returns the export that the client has chosen, or `None` if it has ended the negotiation.
pub fn negotiate<E>(
    stream: &mut (impl Read + Write),
    admit: impl Fn(&str) -> Option<E>,
    size: impl Fn(&E) -> u64,
) -> io::Result<Option<E>> {
    let flags = FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES;
    stream.write_all(&[&GREETING[..], &flags.to_be_bytes()].concat())?;
    let theirs = u32::from_be_bytes(read_array(stream)?);
    if theirs & u32::from(FLAG_FIXED_NEWSTYLE) == 0 || theirs & !u32::from(flags) != 0 {
        return Err(violation("its flags were not offered"));
    }
    for _ in 0..OPTIONS_MAX {
        if &read_array::<8>(stream)? != OPTION_MAGIC {
            return Err(violation("an option does not begin like one"));
        }
        let option = u32::from_be_bytes(read_array(stream)?);
        let length = u32::from_be_bytes(read_array(stream)?);
        if length > OPTION_BYTES_MAX {
            return Err(violation("an option is too long"));
        }
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data)?;
        match option {
            OPTION_ABORT => {
                send(stream, option, ACK, &[])?;
                return Ok(None);
            }
            // The protocol has no reply that refuses an export to this option.
            OPTION_EXPORT_NAME => return Ok(None),
            OPTION_GO | OPTION_INFO => match export_name(&data) {
                None => send(stream, option, ERROR_INVALID, &[])?,
                Some(name) => match admit(name) {
                    None => send(stream, option, ERROR_POLICY, &[])?,
                    Some(export) => {
                        describe(stream, option, size(&export))?;
                        if option == OPTION_GO {
                            return Ok(Some(export));
                        }
                    }
                },
            },
            _ => send(stream, option, ERROR_UNSUPPORTED, &[])?,
        }
    }
    Err(violation("it negotiates without end"))
}

fn describe(stream: &mut impl Write, option: u32, size: u64) -> io::Result<()> {
    let export = [
        &INFO_EXPORT.to_be_bytes()[..],
        &size.to_be_bytes(),
        &EXPORT_FLAGS.to_be_bytes(),
    ]
    .concat();
    send(stream, option, INFO, &export)?;
    let sizes = [BLOCK_SIZE as u32, BLOCK_SIZE as u32, PAYLOAD_BYTES_MAX as u32];
    let sizes = sizes.map(u32::to_be_bytes).concat();
    send(
        stream,
        option,
        INFO,
        &[&INFO_BLOCK_SIZE.to_be_bytes()[..], &sizes].concat(),
    )?;
    send(stream, option, ACK, &[])
}

fn send(stream: &mut impl Write, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut bytes = REPLY_MAGIC.to_be_bytes().to_vec();
    for number in [option, kind, data.len() as u32] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(data);
    stream.write_all(&bytes)
}

/// The name in the data of an option: its length (4), the name, the number of wishes (2), and two bytes for each.
fn export_name(data: &[u8]) -> Option<&str> {
    let (length, rest) = data.split_first_chunk()?;
    let (name, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    let (wishes, rest) = rest.split_first_chunk()?;
    let is_whole = rest.len() == 2 * usize::from(u16::from_be_bytes(*wishes));
    str::from_utf8(name).ok().filter(|_| is_whole)
}

fn read_array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn violation(what: &str) -> Error {
    Error::new(
        ErrorKind::InvalidData,
        format!("the client does not keep to the protocol: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A client that has said everything already.
    struct Script<'a> {
        input: &'a [u8],
        output: Vec<u8>,
    }

    impl Read for Script<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.input.read(buffer)
        }
    }

    impl Write for Script<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.output.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn option(number: u32, data: &[u8]) -> Vec<u8> {
        let numbers = [number, data.len() as u32].map(u32::to_be_bytes).concat();
        [&OPTION_MAGIC[..], &numbers, data].concat()
    }

    fn name(name: &str, wishes: &[u16]) -> Vec<u8> {
        let wishes: Vec<u8> = [&[wishes.len() as u16], wishes]
            .concat()
            .iter()
            .flat_map(|wish| wish.to_be_bytes())
            .collect();
        [&(name.len() as u32).to_be_bytes()[..], name.as_bytes(), &wishes].concat()
    }

    /// The result of a negotiation with this input, and the last reply.
    fn play(input: &[u8]) -> (io::Result<Option<u64>>, u32) {
        let mut script = Script {
            input,
            output: Vec::new(),
        };
        let chosen = negotiate(&mut script, |name| (name == "disk").then_some(1 << 30), |size| *size);
        let last = script
            .output
            .windows(8)
            .rposition(|bytes| bytes == REPLY_MAGIC.to_be_bytes());
        let kind = last.map_or(0, |at| {
            u32::from_be_bytes(script.output[at + 12..at + 16].try_into().expect("four bytes"))
        });
        (chosen, kind)
    }

    fn hello(options: &[Vec<u8>]) -> Vec<u8> {
        [3u32.to_be_bytes().to_vec(), options.concat()].concat()
    }

    #[test]
    fn a_client_gets_the_export_that_it_names() {
        // QEMU asks for structured replies first, which are refused.
        let (chosen, last) = play(&hello(&[option(8, &[]), option(OPTION_GO, &name("disk", &[3]))]));
        assert_eq!((chosen.expect("negotiated"), last), (Some(1 << 30), ACK));
    }

    #[test]
    fn a_client_may_ask_about_an_export_and_end_the_negotiation() {
        let (chosen, last) = play(&hello(&[
            option(OPTION_INFO, &name("disk", &[])),
            option(OPTION_ABORT, &[]),
        ]));
        assert_eq!((chosen.expect("negotiated"), last), (None, ACK));
    }

    #[test]
    fn an_export_that_is_not_for_the_client_is_refused() {
        let (chosen, last) = play(&hello(&[option(OPTION_GO, &name("other", &[]))]));
        assert_eq!(
            chosen.expect_err("the input has ended").kind(),
            ErrorKind::UnexpectedEof
        );
        assert_eq!(last, ERROR_POLICY);
    }

    #[test]
    fn options_that_lie_about_their_parts_are_refused() {
        let mut long = name("disk", &[]);
        long[0..4].copy_from_slice(&u32::MAX.to_be_bytes());
        let many = [&4u32.to_be_bytes()[..], b"disk", &9u16.to_be_bytes()].concat();
        for data in [
            vec![],
            vec![0; 3],
            long,
            many,
            [&1u32.to_be_bytes()[..], &[0xff, 0, 0]].concat(),
        ] {
            assert_eq!(play(&hello(&[option(OPTION_GO, &data)])).1, ERROR_INVALID);
        }
        let too_long = [&OPTION_MAGIC[..], &OPTION_GO.to_be_bytes(), &u32::MAX.to_be_bytes()].concat();
        assert_eq!(
            play(&hello(&[too_long])).0.expect_err("hung up").kind(),
            ErrorKind::InvalidData
        );
    }

    #[test]
    fn a_negotiation_without_end_is_ended() {
        let endless = vec![option(99, &[]); OPTIONS_MAX + 1];
        assert_eq!(
            play(&hello(&endless)).0.expect_err("hung up").kind(),
            ErrorKind::InvalidData
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_negotiated_without_a_panic(options in proptest::collection::vec((0..10u32, proptest::collection::vec(any::<u8>(), 0..40)), 0..8), noise in proptest::collection::vec(any::<u8>(), 0..64)) {
            let options: Vec<Vec<u8>> = options.into_iter().map(|(number, data)| option(number, &data)).collect();
            // The name of the export is not among these bytes by chance.
            prop_assert!(!matches!(play(&[hello(&options), noise.clone()].concat()).0, Ok(Some(_))));
            prop_assert!(!matches!(play(&noise).0, Ok(Some(_))));
        }
    }
}
