//! Malformed requests and what a client is told. Each row was answered by live servers first: all by Valkey 8.1,
//! all but the `invalid CRLF` ones by Redis 7.0 too, which does not look at the bytes in a line end's place.

use bytes::BytesMut;
use resp_codec::{RequestError, RequestLimits, RequestScan, RequestShape};

/// What a server does with some bytes before it closes the connection.
#[derive(Debug, PartialEq)]
pub struct Answer {
    /// Requests that it answers first.
    pub replies: usize,
    /// The protocol error, as it travels; `None` if it waits for more.
    pub error: Option<Vec<u8>>,
}

/// Bytes that a client sends before it has authenticated (or where it need not), and the answer.
pub fn table() -> Vec<(RequestLimits, Vec<u8>, Answer)> {
    let mut rows = Vec::new();
    let mut add = |limits, input: &[u8], replies, error: &str| {
        let error = (!error.is_empty()).then(|| format!("-ERR Protocol error: {error}\r\n").into_bytes());
        rows.push((limits, input.to_vec(), Answer { replies, error }));
    };
    let open = RequestLimits::AUTHENTICATED;
    for (input, replies, error) in [
        // Counts.
        (&b"*0\r\n"[..], 0, ""),
        (b"*-1\r\n", 0, ""),
        (b"*-9223372036854775808\r\n", 0, ""),
        (b"*0\r\n*-7\r\n*1\r\n$4\r\nPING\r\n", 1, ""),
        (b"*\r\n", 0, "invalid multibulk length"),
        (b"*x\r\n", 0, "invalid multibulk length"),
        (b"*1x\r\n", 0, "invalid multibulk length"),
        (b"* 1\r\n", 0, "invalid multibulk length"),
        (b"*1 \r\n", 0, "invalid multibulk length"),
        (b"*+1\r\n", 0, "invalid multibulk length"),
        (b"*-0\r\n", 0, "invalid multibulk length"),
        (b"*01\r\n", 0, "invalid multibulk length"),
        (b"*00\r\n", 0, "invalid multibulk length"),
        (b"*1\n$4\r\nPING\r\n", 0, "invalid multibulk length"),
        (b"*2147483647\r\n", 0, ""),
        (b"*2147483648\r\n", 0, "invalid multibulk length"),
        (b"*3000000000\r\n", 0, "invalid multibulk length"),
        (b"*9223372036854775807\r\n", 0, "invalid multibulk length"),
        (b"*9223372036854775808\r\n", 0, "invalid multibulk length"),
        (b"*-9223372036854775809\r\n", 0, "invalid multibulk length"),
        (
            b"*1\r\n$4\r\nPING\r\n*x\r\n*1\r\n$4\r\nPING\r\n",
            1,
            "invalid multibulk length",
        ),
        // Lengths.
        (b"*1\r\n$-1\r\n", 0, "invalid bulk length"),
        (b"*1\r\n$\r\n", 0, "invalid bulk length"),
        (b"*1\r\n$x\r\n", 0, "invalid bulk length"),
        (b"*1\r\n$4x\r\nPING\r\n", 0, "invalid bulk length"),
        (b"*1\r\n$04\r\nPING\r\n", 0, "invalid bulk length"),
        (b"*1\r\n$ 4\r\nPING\r\n", 0, "invalid bulk length"),
        (b"*1\r\n$+4\r\nPING\r\n", 0, "invalid bulk length"),
        (b"*1\r\n$536870912\r\n", 0, ""),
        (b"*1\r\n$536870913\r\n", 0, "invalid bulk length"),
        (b"*1\r\n$2147483648\r\n", 0, "invalid bulk length"),
        (b"*1\r\n$9223372036854775808\r\n", 0, "invalid bulk length"),
        (
            b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$2000000000\r\n",
            0,
            "invalid bulk length",
        ),
        (
            b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$blabla\r\n",
            0,
            "invalid bulk length",
        ),
        (b"*1\r\n$0\r\n\r\n", 1, ""),
        // Types.
        (b"*1\r\nfoo\r\n", 0, "expected '$', got 'f'"),
        (
            b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n",
            0,
            "expected '$', got 'f'",
        ),
        (b"*1\r\n*1\r\n", 0, "expected '$', got '*'"),
        (b"*1\r\n:1\r\n", 0, "expected '$', got ':'"),
        (b"*1\r\n\r\n", 0, "expected '$', got ' '"),
        (b"*1\r\n\n\r\n", 0, "expected '$', got ' '"),
        (b"*1\r\n'\r\n", 0, "expected '$', got '''"),
        (b"*1\r\nfoo", 0, ""),
        (b"*1\r\n$4\r\nPING", 0, ""),
        (b"*1\r\n$4\r\nPING\r", 0, ""),
        // Line ends.
        (b"*1\rx", 0, "invalid CRLF in request"),
        (b"*x\rx", 0, "invalid CRLF in request"),
        (b"*1\r\nfoo\rx", 0, "expected '$', got 'f'"),
        (b"*1\r\n$4\rxPING\r\n", 0, "invalid CRLF in request"),
        (b"*1\r\n$4\r\nPINGxx", 0, "invalid CRLF in request"),
        (b"*1\r\n$4\r\nPINGx\n", 0, "invalid CRLF in request"),
        (b"*1\r\n$3\r\nPING\r\n", 0, "invalid CRLF in request"),
        // Inline.
        (b"PING\r\n", 1, ""),
        (b"PING\n", 1, ""),
        (b"PING\r\r\n", 1, ""),
        (b"\r\n", 0, ""),
        (b"\n\n\r\nPING\r\n", 1, ""),
        (b" \t \r\n", 0, ""),
        (b"PI\0NG\r\nPING\r\n", 0, ""),
        (b"PING", 0, ""),
        (b"PING\r", 0, ""),
        (b"\"PI\\x4eG\"\r\n", 1, ""),
        (b"'PING' \r\n", 1, ""),
        (b"set foo \"bar\r\n", 0, "unbalanced quotes in request"),
        (
            b"set \"\"\"test-key\"\"\" test-value\r\n",
            0,
            "unbalanced quotes in request",
        ),
        (b"set 'a'b c\r\n", 0, "unbalanced quotes in request"),
        (b"ECHO \"a\\\"\r\n", 0, "unbalanced quotes in request"),
        (b":1\r\n+OK\r\n$5\r\n", 3, ""),
    ] {
        add(open, input, replies, error);
    }
    let shut = RequestLimits::UNAUTHENTICATED;
    for (input, replies, error) in [
        (&b"*10\r\n"[..], 0, ""),
        (b"*11\r\n", 0, "unauthenticated multibulk length"),
        (b"*2147483647\r\n", 0, "unauthenticated multibulk length"),
        (b"*2147483648\r\n", 0, "invalid multibulk length"),
        (b"*1\r\n$16384\r\n", 0, ""),
        (b"*1\r\n$16385\r\n", 0, "unauthenticated bulk length"),
        (b"*1\r\n$536870912\r\n", 0, "unauthenticated bulk length"),
        (b"*1\r\n$536870913\r\n", 0, "invalid bulk length"),
        (b"*1\r\n$-1\r\n", 0, "invalid bulk length"),
        (b"1 2 3 4 5 6 7 8 9 10 11 12\r\n", 1, ""),
    ] {
        add(shut, input, replies, error);
    }
    let many = [&b"*11\r\n"[..], &b"$1\r\na\r\n".repeat(11)].concat();
    add(shut, &many, 0, "unauthenticated multibulk length");
    add(open, &many, 1, "");
    // 64 KiB of a line is not too much, one byte more is.
    for (start, body, error) in [
        (&b""[..], &b"*"[..], "too big mbulk count string"),
        (b"*1\r\n", b"$", "too big bulk count string"),
        (b"", b"P", "too big inline request"),
        (b"", b"P\0\n", "too big inline request"),
    ] {
        let line = |len| [start, &[body, &vec![b'1'; len - body.len()]].concat()].concat();
        add(open, &line(65536), 0, "");
        add(open, &line(65537), 0, error);
        add(open, &line(100_000), 0, error);
    }
    // Depth is nothing that a request has.
    add(open, &b"*1\r\n".repeat(5000), 0, "expected '$', got '*'");
    rows
}

/// The same from our scanner, fed `step` bytes more at a time.
pub fn ours(limits: &RequestLimits, input: &[u8], step: usize) -> Answer {
    let mut scan = RequestScan::default();
    let (mut start, mut replies) = (0, 0);
    let mut ends = (0..input.len()).step_by(step).skip(1).chain([input.len()]);
    let mut end = ends.next().unwrap_or(0);
    loop {
        match scan.advance(&input[start..end], limits) {
            Ok(Some(frame)) => {
                start += frame.len;
                replies += usize::from(frame.shape != RequestShape::Empty);
            }
            Ok(None) => match ends.next() {
                Some(more) => end = more,
                None => return Answer { replies, error: None },
            },
            Err(error) => {
                let mut out = BytesMut::new();
                error.write_reply(&mut out);
                return Answer {
                    replies,
                    error: Some(out.to_vec()),
                };
            }
        }
    }
}

#[test]
fn a_longer_line_is_taken_where_its_end_is_at_hand() {
    let line = [b"PING ", &vec![b'1'; 70_000][..], b"\r\nPING\r\n"].concat();
    let whole = ours(&RequestLimits::AUTHENTICATED, &line, line.len());
    assert_eq!((whole.replies, whole.error), (2, None));
    let in_parts = ours(&RequestLimits::AUTHENTICATED, &line, 1000);
    assert_eq!(in_parts.replies, 0);
    assert!(in_parts.error.is_some());
}

#[test]
fn malformed_requests_get_the_servers_answers() {
    for (limits, input, want) in table() {
        for step in [input.len(), 1.max(input.len() / 1000), 3] {
            let got = ours(&limits, &input, step);
            let shown = String::from_utf8_lossy(&input[..input.len().min(60)]);
            assert_eq!(got, want, "{shown:?} by {step}");
        }
    }
}

#[test]
fn an_announced_count_costs_nothing() {
    // The scan's own size is all that it may ever hold.
    assert!(size_of::<RequestScan>() <= 64, "{}", size_of::<RequestScan>());
    let mut scan = RequestScan::default();
    assert_eq!(
        scan.advance(b"*1000000\r\n", &RequestLimits::AUTHENTICATED),
        Ok(None)
    );
    assert_eq!(
        scan.advance(b"*1000000\r\n$1\r\na", &RequestLimits::AUTHENTICATED),
        Ok(None)
    );
}

#[test]
fn the_byte_that_is_no_dollar_is_told_as_it_came() {
    let error = RequestScan::default().advance(b"*1\r\n\xff\r\n", &RequestLimits::AUTHENTICATED);
    assert_eq!(error, Err(RequestError::ExpectedBulk(0xff)));
    let mut out = BytesMut::new();
    error.expect_err("no dollar").write_reply(&mut out);
    assert_eq!(&out[..], b"-ERR Protocol error: expected '$', got '\xff'\r\n");
}
