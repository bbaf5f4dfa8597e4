//! Where replies end: every type of RESP2 and RESP3, whole and in pieces, and what is refused.

use resp_codec::limits::MAX_REPLY_DEPTH;
use resp_codec::{Progress, ReplyError, ReplyKind, ReplyScan};

/// Feeds `stream` in pieces of `step` bytes; the end and kind of each reply, and the error that ended it all.
fn scan(stream: &[u8], step: usize) -> (Vec<(usize, ReplyKind)>, Option<ReplyError>) {
    let mut scan = ReplyScan::default();
    let (mut found, mut at) = (Vec::new(), 0);
    for mut piece in stream.chunks(step.max(1)) {
        while !piece.is_empty() {
            match scan.feed(piece) {
                Ok(Progress::Complete { used, kind }) => {
                    at += used;
                    piece = &piece[used..];
                    found.push((at, kind));
                    assert!(scan.is_idle());
                }
                Ok(Progress::Partial) => {
                    at += piece.len();
                    piece = &[];
                    assert!(!scan.is_idle());
                }
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

#[test]
fn every_type_ends_where_it_ends() {
    use ReplyKind::*;
    let replies: &[(&[u8], ReplyKind)] = &[
        (b"+OK\r\n", Simple),
        (b"+\r\n", Simple),
        (b"+a\rb\r\r\n", Simple),
        (b"-ERR no\r\n", Error),
        (b":-9223372036854775808\r\n", Integer),
        (b"$0\r\n\r\n", Bulk),
        (b"$5\r\na\r\n\0b\r\n", Bulk),
        (b"$16\r\n0123456789abcdef\r\n", Bulk),
        (b"$-1\r\n", Null),
        (b"*-1\r\n", Null),
        (b"_\r\n", Null),
        (b"*0\r\n", Array),
        (b"*2\r\n$1\r\na\r\n*2\r\n:1\r\n*-1\r\n", Array),
        (b"*1\r\n*1\r\n*0\r\n", Array),
        (b"%0\r\n", Map),
        (b"%2\r\n+a\r\n:1\r\n+b\r\n*2\r\n:1\r\n:2\r\n", Map),
        (b"~2\r\n+a\r\n+b\r\n", Set),
        (b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n", Push),
        (b",1.5e-10\r\n", Double),
        (b",inf\r\n", Double),
        (b",-inf\r\n", Double),
        (b",nan\r\n", Double),
        (b"#t\r\n", Bool),
        (b"(3492890328409238509324850943850943825024385\r\n", BigNumber),
        (b"=15\r\ntxt:Some string\r\n", Verbatim),
        (b"!21\r\nSYNTAX invalid syntax\r\n", BlobError),
        // An attribute belongs to what it precedes, at the top and within.
        (b"|1\r\n+ttl\r\n:3600\r\n*1\r\n:1\r\n", Array),
        (b"|0\r\n+OK\r\n", Simple),
        (b"|1\r\n+a\r\n*1\r\n:1\r\n|1\r\n+b\r\n+c\r\n_\r\n", Null),
        (b"*3\r\n:1\r\n:2\r\n|1\r\n+ttl\r\n:3600\r\n:3\r\n", Array),
        (b"|1\r\n|1\r\n+x\r\n+y\r\n+k\r\n+v\r\n#f\r\n", Bool),
    ];
    for (reply, kind) in replies {
        let shown = String::from_utf8_lossy(reply);
        assert_eq!(
            scan(reply, reply.len()),
            (vec![(reply.len(), *kind)], None),
            "{shown:?}"
        );
        for cut in 1..reply.len() {
            assert_eq!(scan(&reply[..cut], cut), (vec![], None), "{shown:?} cut at {cut}");
        }
    }
    let stream: Vec<_> = replies
        .iter()
        .flat_map(|(reply, _)| reply.iter().copied())
        .collect();
    let whole = scan(&stream, stream.len());
    assert_eq!(whole.0.len(), replies.len());
    for step in 1..40 {
        assert_eq!(scan(&stream, step), whole, "in pieces of {step}");
    }
}

#[test]
fn what_redis_never_sends_is_refused() {
    for (stream, want) in [
        (&b"x\r\n"[..], ReplyError::UnexpectedType(b'x')),
        (b"HTTP/1.1 400\r\n", ReplyError::UnexpectedType(b'H')),
        (b"\r\n", ReplyError::UnexpectedType(b'\r')),
        (b"*1\r\nx", ReplyError::UnexpectedType(b'x')),
        (b"$-2\r\n", ReplyError::InvalidLength),
        (b"*-2\r\n", ReplyError::InvalidLength),
        (b"%-1\r\n", ReplyError::InvalidLength),
        (b"~-1\r\n", ReplyError::InvalidLength),
        (b">-1\r\n", ReplyError::InvalidLength),
        (b"|-1\r\n", ReplyError::InvalidLength),
        (b"!-1\r\n", ReplyError::InvalidLength),
        (b"=-1\r\n", ReplyError::InvalidLength),
        (b"$\r\n", ReplyError::InvalidLength),
        (b"$1a\r\n", ReplyError::InvalidLength),
        (b"$01\r\na\r\n", ReplyError::InvalidLength),
        (b"$+1\r\na\r\n", ReplyError::InvalidLength),
        (b"$EOF:0123456789\r\n", ReplyError::InvalidLength),
        (b"$9223372036854775808\r\n", ReplyError::InvalidLength),
        (b"$99999999999999999999999999", ReplyError::InvalidLength),
        (b"$1\ra", ReplyError::MissingLineEnd),
        (b"$1\r\nab\r\n", ReplyError::MissingLineEnd),
        (b"$1\r\na\rb", ReplyError::MissingLineEnd),
        (b"$?\r\n", ReplyError::Streamed),
        (b"*?\r\n", ReplyError::Streamed),
        (b"%?\r\n", ReplyError::Streamed),
        (b"~?\r\n", ReplyError::Streamed),
        (b"*1\r\n;4\r\n", ReplyError::Streamed),
        (b".\r\n", ReplyError::Streamed),
    ] {
        for step in [stream.len(), 1] {
            assert_eq!(
                scan(stream, step),
                (vec![], Some(want)),
                "{:?} by {step}",
                String::from_utf8_lossy(stream)
            );
        }
    }
}

#[test]
fn nesting_has_a_limit() {
    let nested = |depth: usize| [b"*1\r\n".repeat(depth), b":1\r\n".to_vec()].concat();
    let deepest = nested(MAX_REPLY_DEPTH);
    assert_eq!(
        scan(&deepest, deepest.len()),
        (vec![(deepest.len(), ReplyKind::Array)], None)
    );
    for header in [
        &b"*1\r\n"[..],
        b"%1\r\n",
        b"|1\r\n",
        b"~1\r\n",
        b">1\r\n",
        b"*2\r\n",
    ] {
        let stream = header.repeat(MAX_REPLY_DEPTH + 2);
        assert_eq!(
            scan(&stream, stream.len()),
            (vec![], Some(ReplyError::TooDeep)),
            "{header:?}"
        );
    }
}

#[test]
fn an_announced_size_is_only_waited_for() {
    for header in [
        &b"$9223372036854775807\r\n"[..],
        b"*9223372036854775807\r\n",
        b"%9223372036854775807\r\n",
    ] {
        let mut scan = ReplyScan::default();
        assert_eq!(scan.feed(header), Ok(Progress::Partial), "{header:?}");
        assert_eq!(scan.feed(b":1\r\n:2\r\n"), Ok(Progress::Partial), "{header:?}");
    }
}
