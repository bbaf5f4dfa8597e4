//! Properties that hold for any bytes, and for any well-formed frames in any split.

use proptest::prelude::*;
use resp_codec::check;
use resp_codec::{Progress, ReplyScan};

/// Bytes that look like RESP often enough to get somewhere.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        4 => prop::sample::select(vec![
            &b"\r\n"[..], b"*1\r\n", b"*2\r\n", b"*0\r\n", b"*-1\r\n", b"$1\r\n", b"$3\r\nGET\r\n", b"$-1\r\n", b"$0\r\n\r\n",
            b"+OK\r\n", b"-ERR x\r\n", b":1\r\n", b"_\r\n", b"#t\r\n", b",1.5\r\n", b"(12\r\n", b"%1\r\n", b"~2\r\n",
            b">1\r\n", b"|1\r\n", b"=7\r\ntxt:abc\r\n", b"!3\r\nERR\r\n", b"PING\r\n", b"\"a b\" ", b"'", b"\"", b"\\x41",
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n", b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", b"*99999999999\r\n", b"$99999999999\r\n", b"$?\r\n", b"?", b"\0",
        ]).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(word, 0..24).prop_map(|words| words.concat())
}

/// One well-formed reply, at most three levels deep, and nothing in it that one of the two protocols forbids.
fn reply() -> impl Strategy<Value = Vec<u8>> {
    let line = "[a-zA-Z0-9 ]{0,20}";
    let scalar = prop_oneof![
        line.prop_map(|text| format!("+{text}\r\n").into_bytes()),
        line.prop_map(|text| format!("-ERR {text}\r\n").into_bytes()),
        any::<i64>().prop_map(|value| format!(":{value}\r\n").into_bytes()),
        any::<bool>().prop_map(|value| if value {
            b"#t\r\n".to_vec()
        } else {
            b"#f\r\n".to_vec()
        }),
        any::<i32>().prop_map(|value| format!(",{value}.5\r\n").into_bytes()),
        "[1-9][0-9]{0,40}".prop_map(|digits| format!("({digits}\r\n").into_bytes()),
        Just(b"_\r\n".to_vec()),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|body| blob("$", &body)),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|body| blob("!", &body)),
        "[a-z]{0,20}".prop_map(|text| blob("=", format!("txt:{text}").as_bytes())),
    ];
    scalar.prop_recursive(3, 24, 4, |inner| {
        let list = prop::collection::vec(inner.clone(), 0..4);
        let pairs = prop::collection::btree_map("[a-z]{1,6}", inner, 0..4);
        prop_oneof![
            (prop::sample::select(vec!["*", ">"]), list).prop_map(|(kind, list)| [
                format!("{kind}{}\r\n", list.len()).into_bytes(),
                list.concat()
            ]
            .concat()),
            pairs.prop_map(|pairs| {
                let mut out = format!("%{}\r\n", pairs.len()).into_bytes();
                for (name, value) in pairs {
                    out.extend(blob("$", name.as_bytes()));
                    out.extend(value);
                }
                out
            }),
        ]
    })
}

fn blob(kind: &str, body: &[u8]) -> Vec<u8> {
    [format!("{kind}{}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_gives_the_same_requests(bytes in soup()) {
        check::request(&bytes);
    }

    #[test]
    fn any_split_gives_the_same_replies(bytes in soup()) {
        check::reply(&bytes);
    }

    #[test]
    fn what_is_written_is_read_again(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        check::command(&bytes);
    }

    #[test]
    fn the_scan_ends_where_redis_protocol_does(frames in prop::collection::vec(reply(), 1..5), cut in any::<prop::sample::Index>()) {
        for frame in &frames {
            let theirs = redis_protocol::resp3::decode::complete::decode(frame);
            let len = theirs.expect("the oracle takes it").expect("complete").1;
            prop_assert_eq!(len, frame.len());
            let ours = ReplyScan::default().feed(frame).expect("the scan takes it");
            let whole = matches!(ours, Progress::Complete { used, .. } if used == len);
            prop_assert!(whole, "{:?}", ours);
        }
        let stream = frames.concat();
        check::reply(&stream);
        let cut = cut.index(stream.len());
        let mut scan = ReplyScan::default();
        let mut ends = 0;
        for mut piece in [&stream[..cut], &stream[cut..]] {
            while !piece.is_empty() {
                match scan.feed(piece).expect("well-formed") {
                    Progress::Complete { used, .. } => {
                        ends += 1;
                        piece = &piece[used..];
                    }
                    Progress::Partial => piece = &[],
                }
            }
        }
        prop_assert_eq!(ends, frames.len());
    }
}
