//! Replies as a person writes them: `+OK`, `-ERR no`, `:1`, `text`, `nil`, `[a :1 nil]`, `>[message c m]`.

use resp_codec::{Progress, ReplyScan};

/// Shows one whole reply frame.
///
/// # Panics
/// If it is not exactly one.
pub fn show(frame: &[u8]) -> String {
    match ReplyScan::default().feed(frame) {
        Ok(Progress::Complete { used, .. }) if used == frame.len() => {}
        other => panic!("{other:?} in {:?}", String::from_utf8_lossy(frame)),
    }
    let (text, rest) = value(frame);
    assert!(rest.is_empty(), "more than one reply");
    text
}

fn value(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes
        .windows(2)
        .position(|pair| pair == b"\r\n")
        .expect("a scanned frame has lines");
    let (line, rest) = (
        String::from_utf8_lossy(&bytes[..end]).into_owned(),
        &bytes[end + 2..],
    );
    let many = || line[1..].parse::<i64>().expect("a scanned frame has lengths");
    match bytes[0] {
        b'_' => ("nil".to_owned(), rest),
        b'$' | b'*' if many() < 0 => ("nil".to_owned(), rest),
        b'$' | b'!' | b'=' => {
            let len = usize::try_from(many()).expect("checked");
            (
                String::from_utf8_lossy(&rest[..len]).into_owned(),
                &rest[len + 2..],
            )
        }
        b'*' | b'~' => values("", many(), rest),
        b'>' => values(">", many(), rest),
        b'%' => values("%", many() * 2, rest),
        _ => (line, rest),
    }
}

fn values<'a>(sign: &str, many: i64, mut rest: &'a [u8]) -> (String, &'a [u8]) {
    let mut shown = Vec::new();
    for _ in 0..many {
        let (text, after) = value(rest);
        shown.push(text);
        rest = after;
    }
    (format!("{sign}[{}]", shown.join(" ")), rest)
}
