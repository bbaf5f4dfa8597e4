//! Writing what the proxy authors itself. Text that would break a line (`\r`, `\n`) is written with blanks in its
//! place, as Redis does.

use bytes::{BufMut, BytesMut};

/// `+OK\r\n`
pub fn simple(out: &mut BytesMut, text: &str) {
    line(out, b'+', text);
}

/// `-ERR what went wrong\r\n`; `text` starts with the error's prefix word.
pub fn error(out: &mut BytesMut, text: &str) {
    line(out, b'-', text);
}

/// `:7\r\n`
pub fn integer(out: &mut BytesMut, value: i64) {
    out.put_u8(b':');
    decimal(out, value);
}

/// `$3\r\nfoo\r\n`, or RESP2's `$-1\r\n`.
pub fn bulk(out: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            header(out, b'$', bytes.len());
            out.reserve(bytes.len().saturating_add(2));
            out.put_slice(bytes);
            out.put_slice(b"\r\n");
        }
        None => out.put_slice(b"$-1\r\n"),
    }
}

/// The head of an array of `len` values.
pub fn array_header(out: &mut BytesMut, len: usize) {
    header(out, b'*', len);
}

/// The head of a map of `pairs` names and values: in RESP2 an array of twice the length.
pub fn map_header(out: &mut BytesMut, resp3: bool, pairs: usize) {
    if resp3 {
        header(out, b'%', pairs)
    } else {
        header(out, b'*', pairs.saturating_mul(2))
    }
}

/// The head of a push of `len` values: in RESP2 an array.
pub fn push_header(out: &mut BytesMut, resp3: bool, len: usize) {
    header(out, if resp3 { b'>' } else { b'*' }, len);
}

/// `_\r\n`, or RESP2's `$-1\r\n`.
pub fn null(out: &mut BytesMut, resp3: bool) {
    out.put_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" });
}

/// Null where an array is expected (EXEC after a broken WATCH, a blocking command that timed out): `_\r\n`, or
/// RESP2's `*-1\r\n`.
pub fn null_array(out: &mut BytesMut, resp3: bool) {
    out.put_slice(if resp3 { b"_\r\n" } else { b"*-1\r\n" });
}

/// A request of these arguments.
pub fn command(out: &mut BytesMut, args: &[&[u8]]) {
    array_header(out, args.len());
    for arg in args {
        bulk(out, Some(arg));
    }
}

fn line(out: &mut BytesMut, kind: u8, text: &str) {
    out.reserve(text.len().saturating_add(3));
    out.put_u8(kind);
    out.extend(
        text.bytes()
            .map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }),
    );
    out.put_slice(b"\r\n");
}

fn header(out: &mut BytesMut, kind: u8, len: usize) {
    out.put_u8(kind);
    decimal(out, i64::try_from(len).unwrap_or(i64::MAX));
}

/// A number and the line end.
fn decimal(out: &mut BytesMut, value: i64) {
    use std::fmt::Write as _;
    // Writing to a BytesMut grows it and cannot fail.
    let _ = write!(out, "{value}\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(write: impl FnOnce(&mut BytesMut), want: &str) {
        let mut out = BytesMut::new();
        write(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), want);
    }

    #[test]
    fn writes_resp() {
        check(|out| simple(out, "OK"), "+OK\r\n");
        check(|out| error(out, "ERR a\r\nb"), "-ERR a  b\r\n");
        check(|out| integer(out, i64::MIN), ":-9223372036854775808\r\n");
        check(|out| bulk(out, Some(b"a\r\nb")), "$4\r\na\r\nb\r\n");
        check(|out| bulk(out, Some(b"")), "$0\r\n\r\n");
        check(|out| bulk(out, None), "$-1\r\n");
        check(|out| array_header(out, 0), "*0\r\n");
        check(|out| map_header(out, false, 2), "*4\r\n");
        check(|out| map_header(out, true, 2), "%2\r\n");
        check(|out| push_header(out, false, 3), "*3\r\n");
        check(|out| push_header(out, true, 3), ">3\r\n");
        check(|out| null(out, false), "$-1\r\n");
        check(|out| null(out, true), "_\r\n");
        check(|out| null_array(out, false), "*-1\r\n");
        check(|out| null_array(out, true), "_\r\n");
        check(
            |out| command(out, &[b"GET", b"k"]),
            "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        );
    }
}
