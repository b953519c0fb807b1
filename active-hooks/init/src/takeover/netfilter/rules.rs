//! Requests that make rules again, of the messages by which a kernel lists them (include/uapi/linux/netfilter/nf_tables.h).
//!
//! Both are the same but for what a kernel numbers itself, the order in which it wants them, and a few attributes that are only
//! in the one or the other.

use crate::takeover::netlink::{attributes, messages, Message, Payload, APPEND, CREATE};
use std::collections::BTreeMap;

/// `NFNL_MSG_BATCH_BEGIN` and `_END`, for `NFNL_SUBSYS_NFTABLES`.
pub const BEGIN: u16 = 16;
/// See [`BEGIN`].
pub const END: u16 = 17;
/// The subsystem.
const NFTABLES: u16 = 10;

/// Kinds of messages (`NFT_MSG_*`).
const TABLE: u16 = 0;
const CHAIN: u16 = 3;
const RULE: u16 = 6;
const SET: u16 = 9;
const ELEMENTS: u16 = 12;
const OBJECT: u16 = 18;
const FLOWTABLE: u16 = 22;

/// Attributes that the code looks at.
const TABLE_FLAGS: u16 = 2;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_ID: u16 = 10;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_COMPAT: u16 = 5;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const LIST_ELEMENTS: u16 = 3;
/// `NFTA_EXPR_NAME` and `_DATA`; `NFTA_DYNSET_TIMEOUT`.
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DYNSET_TIMEOUT: u16 = 6;
/// `NFTA_LIST_ELEM`.
const LIST_ELEMENT: u16 = 1;
/// `NFT_TABLE_F_OWNER` and `_PERSIST`: it belongs to a connection to the kernel that is gone.
const OWNED: u32 = 2 | 4;
/// `NFT_SET_INTERVAL` and `NFT_SET_CONCAT`.
const INTERVAL: u32 = 4;
const CONCATENATED: u32 = 0x80;
/// `NLA_F_NESTED`, and what is left of a kind without the flags.
const NESTED: u16 = 1 << 15;
const KIND: u16 = 0x3FFF;
/// The most elements in one request, in bytes: the length of an attribute has 16 bits.
const ELEMENTS_AT_ONCE: usize = 0x8000;

/// A request: its kind with the subsystem, its flags, and what it says.
pub type Request = (u16, u16, Payload);

/// Family, table and name of a set or a chain.
type Name<'a> = (u8, &'a [u8], &'a [u8]);

/// All requests in the order in which they are made.
///
/// # Errors
/// A message that is not one, or a kind that is not known.
pub fn requests(listed: &[u8]) -> Result<Vec<Request>, String> {
    let mut all = Vec::new();
    let mut chains: Vec<Name<'_>> = Vec::new();
    let mut rules: BTreeMap<Name<'_>, Vec<Request>> = BTreeMap::new();
    let mut sets: BTreeMap<Name<'_>, u32> = BTreeMap::new();
    let mut elements: Vec<(Name<'_>, Vec<&[u8]>)> = Vec::new();
    for message in messages(listed) {
        let message = message.ok_or("a message about rules that is cut short")?;
        let [family, ..] = *message.head;
        let find = |kind| attribute(&message, kind);
        match message.kind & 0xFF {
            TABLE => all.push(table(&message)),
            CHAIN => {
                chains.push((family, find(CHAIN_TABLE)?, find(CHAIN_NAME)?));
                all.push(kept(&message, CREATE, |kind| {
                    matches!(kind, 1 | 3..=5 | 7 | 8 | 10 | 12)
                }));
            }
            FLOWTABLE => all.push(kept(&message, CREATE, |kind| matches!(kind, 1..=3 | 7))),
            OBJECT => all.push(kept(&message, CREATE, |kind| matches!(kind, 1..=4 | 8))),
            SET => {
                let id = sets.len() as u32 + 1;
                let flags = number(find(SET_FLAGS).unwrap_or_default());
                sets.insert((family, find(SET_TABLE)?, find(SET_NAME)?), flags);
                let (kind, flags, payload) =
                    kept(&message, CREATE, |kind| matches!(kind, 1..=9 | 11..=13 | 15 | 17 | 18));
                all.push((kind, flags, payload.with(SET_ID, &id.to_be_bytes())));
            }
            ELEMENTS => {
                let name = (family, find(SET_TABLE)?, find(SET_NAME)?);
                let list = find(LIST_ELEMENTS).unwrap_or_default();
                let list = attributes(list).map(|(_, element)| element);
                match elements.last_mut().filter(|(last, _)| *last == name) {
                    Some((_, known)) => known.extend(list),
                    None => elements.push((name, list.collect())),
                }
            }
            RULE => {
                let chain = (family, find(RULE_TABLE)?, find(RULE_CHAIN)?);
                rules.entry(chain).or_default().push(rule(&message)?);
            }
            other => return Err(format!("a message of kind {other} about rules")),
        }
    }
    for (name, mut list) in elements {
        let flags = sets.get(&name).copied().ok_or("elements of a set that is not listed")?;
        // A kernel lists ends of ranges from the highest down and wants the start of one before its end.
        if flags & INTERVAL != 0 && flags & CONCATENATED == 0 {
            list.reverse();
        }
        all.extend(in_parts(name, &list));
    }
    // Chains without a name of their own are bound by the rule that leads to them, and get no rules after that: they are
    // younger than the chain of that rule.
    for chain in chains.iter().rev() {
        all.extend(rules.remove(chain).unwrap_or_default());
    }
    match rules.is_empty() {
        true => Ok(all),
        false => Err("rules of a chain that is not listed".into()),
    }
}

/// How many of them are rules.
pub fn count(requests: &[Request]) -> usize {
    let rule = NFTABLES << 8 | RULE;
    requests.iter().filter(|(kind, _, _)| *kind == rule).count()
}

fn attribute<'a>(message: &Message<'a>, wanted: u16) -> Result<&'a [u8], String> {
    let kind = message.kind & 0xFF;
    attribute_of(message.body, wanted)
        .ok_or_else(|| format!("a message of kind {kind} about rules without attribute {wanted}"))
}

fn number(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_be_bytes)
}

/// The same message with some of its attributes.
fn kept(message: &Message<'_>, flags: u16, keep: impl Fn(u16) -> bool) -> Request {
    let payload = attributes(message.body)
        .filter(|(kind, _)| keep(kind & KIND))
        .fold(Payload::new(message.head), |payload, (kind, value)| {
            payload.with(kind, value)
        });
    (NFTABLES << 8 | message.kind & 0xFF, flags, payload)
}

fn table(message: &Message<'_>) -> Request {
    let (kind, flags, payload) = kept(message, CREATE, |kind| matches!(kind, 1 | 6));
    let own = attribute(message, TABLE_FLAGS).map_or(0, number) & !OWNED;
    (kind, flags, payload.with(TABLE_FLAGS, &own.to_be_bytes()))
}

fn rule(message: &Message<'_>) -> Result<Request, String> {
    let (kind, flags, mut payload) = kept(message, CREATE | APPEND, |kind| matches!(kind, 1 | 2 | 7));
    let expressions = attribute(message, RULE_EXPRESSIONS).unwrap_or_default();
    let taken = attributes(expressions).fold(Payload::default(), |taken, (kind, expression)| {
        taken.with(kind, &taken_expression(expression))
    });
    payload = payload.with(RULE_EXPRESSIONS | NESTED, taken.bytes());
    if let Some((protocol, inverted)) = compat::protocol(expressions, message.head[0]) {
        let inner = Payload::default()
            .with(1, &u32::from(protocol).to_be_bytes())
            .with(2, &(u32::from(inverted) << 1).to_be_bytes());
        payload = payload.with(RULE_COMPAT | NESTED, inner.bytes());
    }
    Ok((kind, flags, payload))
}

/// An expression as a kernel takes it: without a time for elements of a set that have none, which it lists all the same.
fn taken_expression(expression: &[u8]) -> Vec<u8> {
    let data = attribute_of(expression, EXPRESSION_DATA).unwrap_or_default();
    if attribute_of(expression, EXPRESSION_NAME) != Some(b"dynset\0")
        || attribute_of(data, DYNSET_TIMEOUT) != Some(&[0; 8])
    {
        return expression.to_vec();
    }
    let data = attributes(data)
        .filter(|(kind, _)| kind & KIND != DYNSET_TIMEOUT)
        .fold(Payload::default(), |data, (kind, value)| data.with(kind, value));
    Payload::default()
        .with(EXPRESSION_NAME, b"dynset\0")
        .with(EXPRESSION_DATA | NESTED, data.bytes())
        .bytes()
        .to_vec()
}

/// Requests for the elements of a set.
fn in_parts<'a>((family, table, set): Name<'a>, list: &[&'a [u8]]) -> Vec<Request> {
    let mut parts: Vec<Payload> = Vec::new();
    for element in list {
        match parts.last_mut().filter(|part| part.bytes().len() < ELEMENTS_AT_ONCE) {
            Some(part) => *part = std::mem::take(part).with(LIST_ELEMENT | NESTED, element),
            None => parts.push(Payload::default().with(LIST_ELEMENT | NESTED, element)),
        }
    }
    let request = |part: Payload| {
        let payload = Payload::new(&[family, 0, 0, 0])
            .with(SET_TABLE, table)
            .with(SET_NAME, set)
            .with(LIST_ELEMENTS | NESTED, part.bytes());
        (NFTABLES << 8 | ELEMENTS, CREATE, payload)
    };
    parts.into_iter().map(request).collect()
}

/// Matches and targets of iptables in rules of nf_tables.
///
/// Some want to know the protocol of the rule. It is told beside the rule when that is made, and is not listed: it is what the
/// rule compares before.
mod compat {
    use super::{attribute_of, attributes, EXPRESSION_DATA as DATA, EXPRESSION_NAME as NAME, KIND};

    /// Where IPv4 and IPv6 have the protocol.
    const IN_IPV4: u32 = 9;
    const IN_IPV6: u32 = 6;
    /// `NFT_META_L4PROTO`, `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_CMP_EQ`, `NFT_CMP_NEQ`.
    const META_PROTOCOL: u32 = 16;
    const NETWORK_HEADER: u32 = 1;
    const EQUAL: u32 = 0;
    const NOT_EQUAL: u32 = 1;

    fn number(data: &[u8], kind: u16) -> Option<u32> {
        let bytes = attribute_of(data, kind)?.try_into().ok()?;
        Some(u32::from_be_bytes(bytes))
    }

    fn loads_protocol(name: &[u8], data: &[u8], family: u8) -> bool {
        let at = match i32::from(family) {
            libc::AF_INET6 => IN_IPV6,
            _ => IN_IPV4,
        };
        match name {
            // NFTA_META_KEY.
            b"meta\0" => number(data, 2) == Some(META_PROTOCOL),
            // NFTA_PAYLOAD_BASE, _OFFSET, _LEN.
            b"payload\0" => {
                number(data, 2) == Some(NETWORK_HEADER) && number(data, 3) == Some(at) && number(data, 4) == Some(1)
            }
            _ => false,
        }
    }

    /// The protocol and whether it is any but that; `None` if no part of the rule asks for it, and 0 if there is none.
    pub fn protocol(expressions: &[u8], family: u8) -> Option<(u8, bool)> {
        let (mut found, mut loaded, mut asks) = ((0, false), false, false);
        for (_, expression) in attributes(expressions).filter(|(kind, _)| kind & KIND == 1) {
            let name = attribute_of(expression, NAME)?;
            let data = attribute_of(expression, DATA).unwrap_or_default();
            asks |= matches!(name, b"match\0" | b"target\0");
            // NFTA_CMP_OP, and NFTA_CMP_DATA with NFTA_DATA_VALUE in it.
            let value = attribute_of(data, 3).and_then(|data| attribute_of(data, 1));
            if let (true, b"cmp\0", Some(&[value])) = (loaded, name, value) {
                match number(data, 2) {
                    Some(EQUAL) => found = (value, false),
                    Some(NOT_EQUAL) => found = (value, true),
                    _ => {}
                }
            }
            loaded = loads_protocol(name, data, family);
        }
        asks.then_some(found)
    }
}

fn attribute_of(nested: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut found = attributes(nested).filter(|(kind, _)| kind & KIND == wanted);
    found.next().map(|(_, value)| value)
}

#[cfg(test)]
mod tests;
