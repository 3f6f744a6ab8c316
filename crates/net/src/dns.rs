//! The guest's resolver. A name that may be reached gets an address of the synthetic range; nothing is asked of the internet.

use crate::addresses::SYNTHETIC;
use crate::ledger::Ledger;
use crate::policy::{Rules, is_name};
use std::net::Ipv4Addr;

const HEADER_BYTES: usize = 12;
const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;
/// Time for which the guest may keep an address, in seconds.
const TTL: u32 = 60;

const NO_ERROR: u8 = 0;
const NO_SUCH_NAME: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;

/// A reply, and the name if it was refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub reply: Vec<u8>,
    pub refused: Option<String>,
}

struct Question<'a> {
    /// The name as it stands in the query.
    bytes: &'a [u8],
    /// The name in lower case; `None` if it is no host name.
    name: Option<String>,
    kind: u16,
    class: u16,
}

/// Answers a query. `None` if it is not a query with exactly one question.
pub fn answer(query: &[u8], rules: &Rules, ledger: &mut Ledger) -> Option<Answer> {
    let question = question(query)?;
    if question.class != CLASS_IN {
        return Some(reply(query, &question, NOT_IMPLEMENTED, None, None));
    }
    let Some(name) = question.name.as_deref().filter(|name| rules.may_resolve(name)) else {
        let refused = question.name.clone();
        return Some(reply(query, &question, NO_SUCH_NAME, None, refused));
    };
    // A name has no other record: no IPv6 address, no service binding, nothing that would lead elsewhere.
    let address = (question.kind == TYPE_A).then(|| address_of(ledger.offset(name)));
    Some(reply(query, &question, NO_ERROR, address, None))
}

fn address_of(offset: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(SYNTHETIC.address().to_bits() + offset)
}

/// The place of a synthetic address in its range; `None` for other addresses.
pub fn offset_of(address: Ipv4Addr) -> Option<u32> {
    let is_synthetic = SYNTHETIC.contains_addr(&address);
    is_synthetic.then(|| address.to_bits() - SYNTHETIC.address().to_bits())
}

fn question(query: &[u8]) -> Option<Question<'_>> {
    let [_, _, flags, _, 0, 1, 0, 0, 0, 0, ..] = query else {
        return None;
    };
    let is_standard_query = flags & 0b1111_1000 == 0;
    let mut labels = Vec::new();
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        match length {
            0 => break,
            // A name is not compressed where there is nothing before it.
            64.. => return None,
            _ => labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase()),
        }
        at += length;
    }
    let [kind_high, kind_low, class_high, class_low] = *query.get(at..at + 4)? else {
        return None;
    };
    // A dot within a label is no part of a host name, and would look like two labels.
    let has_dot = labels.iter().any(|label| label.contains('.'));
    let name = Some(labels.join(".")).filter(|name| !has_dot && is_name(name));
    is_standard_query.then(|| Question {
        bytes: &query[HEADER_BYTES..at + 4],
        name,
        kind: u16::from_be_bytes([kind_high, kind_low]),
        class: u16::from_be_bytes([class_high, class_low]),
    })
}

fn reply(
    query: &[u8],
    question: &Question<'_>,
    code: u8,
    address: Option<Ipv4Addr>,
    refused: Option<String>,
) -> Answer {
    const RESPONSE: u8 = 0x80;
    const RECURSION_DESIRED: u8 = 0x01;
    const RECURSION_AVAILABLE: u8 = 0x80;
    let mut reply = query[..2].to_vec();
    reply.extend([RESPONSE | query[2] & RECURSION_DESIRED, RECURSION_AVAILABLE | code]);
    reply.extend([0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    reply.extend(question.bytes);
    if let Some(address) = address {
        // The name is the question's, at offset 12.
        reply.extend([0xc0, 12]);
        reply.extend(TYPE_A.to_be_bytes());
        reply.extend(CLASS_IN.to_be_bytes());
        reply.extend(TTL.to_be_bytes());
        reply.extend(4u16.to_be_bytes());
        reply.extend(address.octets());
    }
    Answer { reply, refused }
}

#[cfg(test)]
mod tests;
