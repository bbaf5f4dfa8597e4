//! What a node says unasked: messages, confirmations of subscriptions, invalidations.

/// What a subscriber gets even if it has turned replies off.
pub(crate) fn is_published(frame: &[u8]) -> bool {
    let published = [
        &b"message"[..],
        b"pmessage",
        b"smessage",
        b"subscribe",
        b"psubscribe",
        b"ssubscribe",
        b"unsubscribe",
        b"punsubscribe",
        b"sunsubscribe",
    ];
    words(frame).is_some_and(|(word, _)| published.contains(&word))
}

/// Keys that whoever tracks is to forget.
pub(crate) fn is_invalidation(push: &[u8]) -> bool {
    push.starts_with(b">2\r\n$10\r\ninvalidate\r\n")
}

/// The first two elements of an array or push whose first is a bulk string; the second may be null.
pub(crate) fn words(frame: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    if !matches!(frame.first()?, b'*' | b'>') {
        return None;
    }
    let rest = frame.get(frame.iter().position(|byte| *byte == b'\n')? + 1..)?;
    let (word, rest) = bulk(rest)?;
    let (second, _) = bulk(rest)?;
    Some((word?, second))
}

/// A bulk string (or a null) and what follows it.
fn bulk(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')? + 1;
    let rest = bytes.get(end..)?;
    match bytes.first()? {
        b'_' => Some((None, rest)),
        b'$' => {
            let header = std::str::from_utf8(bytes.get(1..end.checked_sub(2)?)?).ok()?;
            let Ok(len) = header.parse::<usize>() else {
                return Some((None, rest));
            };
            Some((Some(rest.get(..len)?), rest.get(len + 2..)?))
        }
        _ => None,
    }
}
