//! Messages that are almost right: fields of a good one have other values, are gone, there twice, or of another type.

use crate::choices::Choices;
use prost::Message;
use std::fmt::Debug;

/// One field on the wire.
#[derive(Clone, Debug)]
enum Field {
    Varint(u64, u64),
    Bytes(u64, Vec<u8>),
    /// Of a fixed width: its whole bytes.
    Fixed(Vec<u8>),
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(value.to_le_bytes()[0] & 0x7f | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// The fields of a message; none if the bytes are no message.
fn fields(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let whole = bytes;
        let tag = varint(&mut bytes)?;
        let fixed = match tag & 7 {
            0 => {
                found.push(Field::Varint(tag, varint(&mut bytes)?));
                continue;
            }
            2 => {
                let len = usize::try_from(varint(&mut bytes)?).ok()?;
                let (content, rest) = bytes.split_at_checked(len)?;
                found.push(Field::Bytes(tag, content.to_vec()));
                bytes = rest;
                continue;
            }
            1 => 8,
            5 => 4,
            _ => return None,
        };
        bytes = bytes.get(fixed..)?;
        found.push(Field::Fixed(whole[..whole.len() - bytes.len()].to_vec()));
    }
    Some(found)
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        match field {
            Field::Varint(tag, value) => {
                put_varint(*tag, &mut out);
                put_varint(*value, &mut out);
            }
            Field::Bytes(tag, content) => {
                put_varint(*tag, &mut out);
                put_varint(content.len() as u64, &mut out);
                out.extend(content);
            }
            Field::Fixed(whole) => out.extend(whole),
        }
    }
    out
}

/// A message with up to three changes.
fn changed(good: &[u8], choices: &mut Choices<'_>) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..choices.byte() % 4 {
        bytes = change(&bytes, choices);
    }
    if choices.byte() % 8 == 1 && !bytes.is_empty() {
        let at = choices.below(bytes.len());
        if choices.byte().is_multiple_of(2) { bytes.truncate(at) } else { bytes[at] = choices.byte() }
    }
    bytes
}

fn change(bytes: &[u8], choices: &mut Choices<'_>) -> Vec<u8> {
    let Some(mut fields) = fields(bytes).filter(|fields| !fields.is_empty()) else {
        return choices.text().into_bytes();
    };
    let at = choices.below(fields.len());
    match choices.byte() % 8 {
        1 => drop(fields.remove(at)),
        2 => fields.push(fields[at].clone()),
        3 => fields.push(Field::Varint(u64::from(choices.byte() % 16) << 3, choices.edge())),
        _ => match &mut fields[at] {
            Field::Varint(_, value) => *value = choices.edge(),
            // A part may be a message or a text, and a text may look like a message.
            Field::Bytes(_, content) if choices.byte().is_multiple_of(2) => {
                *content = change(content, choices)
            }
            Field::Bytes(_, content) => *content = choices.text().into_bytes(),
            Field::Fixed(whole) => {
                if let Some(last) = whole.last_mut() {
                    *last ^= choices.byte();
                }
            }
        },
    }
    encode(&fields)
}

/// Takes a message with changes as a domain type; whether it was accepted. One that is goes back to the same.
pub(crate) fn take<D, W, E>(good: &D, choices: &mut Choices<'_>) -> bool
where
    D: TryFrom<W, Error = E> + Clone + PartialEq + Debug,
    W: Message + Default + From<D>,
    E: Debug,
{
    let bytes = changed(&W::from(good.clone()).encode_to_vec(), choices);
    let Some(read) = read::<D, W>(&bytes) else { return false };
    let again = D::try_from(W::from(read.clone())).expect("what was accepted is accepted again");
    assert_eq!(again, read, "and is the same");
    true
}

/// Takes a message with changes as a domain type that has no way back.
pub(crate) fn take_one_way<D: TryFrom<W>, W: Message + Default>(good: &W, choices: &mut Choices<'_>) -> bool {
    read::<D, W>(&changed(&good.encode_to_vec(), choices)).is_some()
}

fn read<D: TryFrom<W>, W: Message + Default>(bytes: &[u8]) -> Option<D> {
    W::decode(bytes).ok().and_then(|message| D::try_from(message).ok())
}
