//! The words of a line, as redis-cli takes them, and what saves typing: `"x"*3` is one word `xxx`, `"k#"@3` is the
//! three words `k0 k1 k2`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail, ensure};

/// Splits a line into words, with each `${name}` replaced.
pub(crate) fn words(line: &str, names: &BTreeMap<String, Vec<u8>>) -> Result<Vec<Vec<u8>>> {
    let mut rest = line.as_bytes();
    let mut words = Vec::new();
    loop {
        rest = rest.trim_ascii_start();
        let Some(first) = rest.first() else {
            return Ok(words);
        };
        let (word, behind) = match first {
            b'"' => quoted(&rest[1..])?,
            b'\'' => {
                let end = rest[1..]
                    .iter()
                    .position(|byte| *byte == b'\'')
                    .context("an open quote")?;
                (rest[1..=end].to_vec(), &rest[end + 2..])
            }
            _ => {
                let end = rest
                    .iter()
                    .position(u8::is_ascii_whitespace)
                    .unwrap_or(rest.len());
                (rest[..end].to_vec(), &rest[end..])
            }
        };
        let word = named(&word, names)?;
        let end = behind
            .iter()
            .position(u8::is_ascii_whitespace)
            .unwrap_or(behind.len());
        let (suffix, behind) = behind.split_at(end);
        match suffix.split_first() {
            None => words.push(word),
            Some((b'*', times)) => words.push(word.repeat(number(times)?)),
            Some((b'@', times)) => words.extend((0..number(times)?).map(|index| numbered(&word, index))),
            Some(_) => bail!("{:?} behind a quote", String::from_utf8_lossy(suffix)),
        }
        rest = behind;
    }
}

/// Writes a word so that [`words`] reads it back.
pub(crate) fn written(word: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.:,/=()[]{}|<>%^&!?;+@~*".contains(byte);
    if !word.is_empty() && word.iter().all(plain) {
        return String::from_utf8_lossy(word).into_owned();
    }
    if word.len() > 64 && word.iter().all(|byte| *byte == word[0]) {
        return format!("{}*{}", escaped(&word[..1]), word.len());
    }
    escaped(word)
}

/// In double quotes, all that is not plain text escaped.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for byte in bytes {
        match byte {
            b'"' | b'\\' => drop(write!(out, "\\{}", char::from(*byte))),
            b'\r' => out.push_str("\\r"),
            b'\n' => out.push_str("\\n"),
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => drop(write!(out, "\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}

/// What stands between double quotes, and what behind.
fn quoted(mut rest: &[u8]) -> Result<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    loop {
        let (byte, behind) = rest.split_first().context("an open quote")?;
        rest = behind;
        match byte {
            b'"' => return Ok((word, rest)),
            b'\\' => {
                let (escape, behind) = rest.split_first().context("an open quote")?;
                rest = behind;
                word.push(match escape {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'x' => {
                        let digits = rest.get(..2).context("\\x and less than two digits")?;
                        rest = &rest[2..];
                        u8::from_str_radix(std::str::from_utf8(digits)?, 16)?
                    }
                    other => *other,
                });
            }
            plain => word.push(*plain),
        }
    }
}

fn named(word: &[u8], names: &BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = word;
    while let Some(at) = rest.windows(2).position(|pair| pair == b"${") {
        out.extend_from_slice(&rest[..at]);
        let end = rest.iter().skip(at).position(|byte| *byte == b'}');
        let end = at + end.context("${ without its end")?;
        let name = std::str::from_utf8(&rest[at + 2..end])?;
        ensure!(names.contains_key(name), "nothing is known of ${{{name}}}");
        out.extend_from_slice(&names[name]);
        rest = &rest[end + 1..];
    }
    out.extend_from_slice(rest);
    Ok(out)
}

fn numbered(word: &[u8], index: usize) -> Vec<u8> {
    String::from_utf8_lossy(word)
        .replace('#', &index.to_string())
        .into_bytes()
}

fn number(digits: &[u8]) -> Result<usize> {
    let text = std::str::from_utf8(digits)?;
    text.parse().with_context(|| format!("{text:?} is no number"))
}

#[test]
fn words_are_read_as_written() {
    let check = |line: &str, expected: &[&[u8]]| {
        let names = BTreeMap::from([("id".to_owned(), b"7".to_vec())]);
        assert_eq!(words(line, &names).unwrap(), expected, "{line}");
    };
    check("SET  k v", &[b"SET", b"k", b"v"]);
    check(
        r#"ECHO "a\r\n\x00\" " 'b "' "" "#,
        &[b"ECHO", b"a\r\n\0\" ", b"b \"", b""],
    );
    check(r#""ab"*2 "k#"@2 x*2"#, &[b"abab", b"k0", b"k1", b"x*2"]);
    check(r#"KILL ID ${id} "<${id}>""#, &[b"KILL", b"ID", b"7", b"<7>"]);
    for word in [&b"plain"[..], b"", b"a b\r\n\"\\\xff", &[b'y'; 70]] {
        check(&written(word), &[word]);
    }
}
