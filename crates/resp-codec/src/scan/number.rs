//! Numbers as they stand in headers: `123\r\n`.

/// The number that `text` writes, by the rule of Redis' `string2ll`: an optional minus, no leading zero, no plus,
/// no blank. `None` for anything else and for what an `i64` cannot hold.
pub(crate) fn parse(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    // Counted downwards: the negative side holds one more.
    let below_zero = digits.iter().try_fold(0_i64, |sum, digit| match digit {
        b'0'..=b'9' => sum
            .checked_mul(10)?
            .checked_sub(i64::from(digit.wrapping_sub(b'0'))),
        _ => None,
    })?;
    if negative {
        Some(below_zero)
    } else {
        below_zero.checked_neg()
    }
}

/// The common case in one pass: a short positive number and its whole line end at the start of `bytes`, and how
/// many bytes both take. `None` means no more than "look closer".
#[inline(always)]
pub(crate) fn short_line(bytes: &[u8]) -> Option<(i64, usize)> {
    let mut value: i64 = 0;
    for (at, &byte) in bytes.iter().enumerate().take(MAX_SHORT_DIGITS) {
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 {
            value = value.wrapping_mul(10).wrapping_add(i64::from(digit));
            continue;
        }
        let canonical = at == 1 || (at > 1 && bytes.first() != Some(&b'0'));
        let ends = byte == b'\r' && bytes.get(at.wrapping_add(1)) == Some(&b'\n');
        return (canonical && ends).then_some((value, at.wrapping_add(2)));
    }
    None
}

/// Ten digits and a line end: cannot overflow an `i64`.
const MAX_SHORT_DIGITS: usize = 11;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_as_string2ll() {
        for (text, want) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("-1", Some(-1)),
            ("2147483648", Some(2_147_483_648)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("00", None),
            ("01", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("1a", None),
        ] {
            assert_eq!(parse(text.as_bytes()), want, "{text:?}");
        }
    }

    #[test]
    fn a_short_line_is_what_parse_says_or_nothing() {
        for (bytes, want) in [
            ("0\r\n", Some((0, 3))),
            ("16\r\nrest", Some((16, 4))),
            ("1234567890\r\n", Some((1_234_567_890, 12))),
            ("12345678901\r\n", None),
            ("01\r\n", None),
            ("-1\r\n", None),
            ("\r\n", None),
            ("1", None),
            ("1\r", None),
            ("1\rx", None),
            ("", None),
        ] {
            assert_eq!(short_line(bytes.as_bytes()), want, "{bytes:?}");
        }
    }
}
