//! What may differ within a frame: what a scenario masks, and orders that it calls nobody's.

use std::sync::LazyLock;

use regex::bytes::Regex;
use testkit::Reply;

use super::scenario::Scenario;
use super::side::Frame;
use super::words::escaped;

/// The id in the answer to HELLO is never the same.
static GREETING: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(\$5\r\nproto\r\n:[23]\r\n\$2\r\nid\r\n:)[0-9]+").expect("a pattern"));

/// A frame as it is compared: its very bytes, unless the scenario allows for less.
pub(crate) fn comparable(frame: &Frame, scenario: &Scenario) -> String {
    let raw = GREETING.replace(&frame.raw, &b"${1}0"[..]);
    if scenario.masks.is_empty() && !scenario.unordered {
        return shown(&raw);
    }
    let reply = Reply::read(&mut &raw[..], &mut Vec::new()).expect("it was one before");
    masked(&reply, scenario)
}

/// Bytes for a reader's eye; long ones in part.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const LONG: usize = 2000;
    if bytes.len() <= LONG {
        return escaped(bytes);
    }
    // Compared in whole, so that two long ones that differ in the middle are not taken for the same.
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{}… {} bytes, sum {sum:x}", escaped(&bytes[..200]), bytes.len())
}

fn masked(reply: &Reply, scenario: &Scenario) -> String {
    let text = |text: &[u8]| mask(text, &scenario.masks);
    let many = |items: &[Reply]| {
        let mut all: Vec<String> = items.iter().map(|item| masked(item, scenario)).collect();
        if scenario.unordered {
            all.sort();
        }
        all.join(" ")
    };
    match reply {
        Reply::Simple(simple) => format!("+{}", text(simple.as_bytes())),
        Reply::Error(error) => format!("-{}", text(error.as_bytes())),
        Reply::Integer(number) => format!(":{}", text(number.to_string().as_bytes())),
        Reply::Bulk(bytes) => format!("${}", text(bytes)),
        Reply::Null => "null".to_owned(),
        Reply::Array(items) => format!("*[{}]", many(items)),
        Reply::Set(items) => format!("~[{}]", many(items)),
        Reply::Push(items) => format!(">[{}]", many(items)),
        Reply::Map(pairs) => {
            let pairs = pairs
                .iter()
                .map(|(key, value)| Reply::Array(vec![key.clone(), value.clone()]));
            format!("%[{}]", many(&pairs.collect::<Vec<_>>()))
        }
        Reply::Double(number) => format!(",{}", text(number.as_bytes())),
        Reply::Bool(truth) => format!("#{truth}"),
        Reply::BigNumber(number) => format!("({}", text(number.as_bytes())),
    }
}

fn mask(text: &[u8], masks: &[Regex]) -> String {
    let mut text = text.to_vec();
    for mask in masks {
        text = mask.replace_all(&text, &b"#"[..]).into_owned();
    }
    shown(&text)
}

#[test]
fn only_what_is_masked_may_differ() {
    let scenario = Scenario {
        masks: vec![Regex::new("id=[0-9]+").unwrap()],
        unordered: true,
        ..Scenario::default()
    };
    let check = |reply: Reply, expected: &str| assert_eq!(masked(&reply, &scenario), expected);
    check(Reply::Bulk(b"id=7 name=x".to_vec()), "$\"# name=x\"");
    check(
        Reply::Array(vec![Reply::Integer(2), Reply::Integer(1)]),
        "*[:\"1\" :\"2\"]",
    );
    check(
        Reply::Map(vec![(Reply::Simple("b".into()), Reply::Null)]),
        "%[*[+\"b\" null]]",
    );
    assert_ne!(shown(&[b'a'; 3000]), shown(&[&[b'a'; 2999][..], b"b"].concat()));
}
