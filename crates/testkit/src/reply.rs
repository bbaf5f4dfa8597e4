//! Reading replies, written apart from the codec on purpose: a fault of the codec must not hide itself.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

/// One reply of RESP2 or RESP3, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Simple(String),
    /// `-ERR …`, without the minus
    Error(String),
    /// `:1`
    Integer(i64),
    /// `$3`, and RESP3's verbatim `=` with its three letters and colon
    Bulk(Vec<u8>),
    /// `$-1`, `*-1` and `_`
    Null,
    /// `*`
    Array(Vec<Self>),
    /// `%`
    Map(Vec<(Self, Self)>),
    /// `~`
    Set(Vec<Self>),
    /// `>`
    Push(Vec<Self>),
    /// `,`, as written
    Double(String),
    /// `#`
    Bool(bool),
    /// `(`, as written
    BigNumber(String),
}

// === impl Reply ===

impl Reply {
    /// Reads one reply, appending its bytes to `raw`; an attribute is kept in `raw` and otherwise passed over.
    ///
    /// # Errors
    /// What the reader says; `InvalidData` for bytes that are no RESP, `UnexpectedEof` for an end, clean or not.
    pub fn read(from: &mut impl BufRead, raw: &mut Vec<u8>) -> io::Result<Self> {
        let line = read_line(from, raw)?;
        let (kind, rest) = (line[0], &line[1..]);
        let text = || String::from_utf8_lossy(rest).into_owned();
        match kind {
            b'+' => Ok(Self::Simple(text())),
            b'-' => Ok(Self::Error(text())),
            b':' => number(rest).map(Self::Integer),
            b'$' | b'=' | b'!' => match length(rest)? {
                None => Ok(Self::Null),
                Some(count) => {
                    let body = read_body(from, raw, count)?;
                    Ok(if kind == b'!' {
                        Self::Error(String::from_utf8_lossy(&body).into_owned())
                    } else {
                        Self::Bulk(body)
                    })
                }
            },
            b'*' => Ok(length(rest)?
                .map(|count| read_many(from, raw, count))
                .transpose()?
                .map_or(Self::Null, Self::Array)),
            b'~' => read_many(from, raw, length(rest)?.unwrap_or(0)).map(Self::Set),
            b'>' => read_many(from, raw, length(rest)?.unwrap_or(0)).map(Self::Push),
            b'%' => read_pairs(from, raw, length(rest)?.unwrap_or(0)).map(Self::Map),
            b'|' => {
                read_pairs(from, raw, length(rest)?.unwrap_or(0))?;
                Self::read(from, raw)
            }
            b'_' => Ok(Self::Null),
            b',' => Ok(Self::Double(text())),
            b'#' => Ok(Self::Bool(rest == b"t")),
            b'(' => Ok(Self::BigNumber(text())),
            _ => Err(invalid(&line)),
        }
    }

    /// The text of a simple string, bulk, double or big number; `None` for all else and for what is no UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Simple(text) | Self::Double(text) | Self::BigNumber(text) => Some(text),
            Self::Bulk(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The number of an integer reply.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The text of an error reply.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Error(text) => Some(text),
            _ => None,
        }
    }

    /// The elements of an array, set or push; none for all else.
    #[must_use]
    pub fn items(&self) -> &[Self] {
        match self {
            Self::Array(items) | Self::Set(items) | Self::Push(items) => items,
            _ => &[],
        }
    }

    /// The texts of its elements.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.items()
            .iter()
            .filter_map(Self::text)
            .map(str::to_owned)
            .collect()
    }

    /// Fields and values of a map, or of the flat array by which RESP2 stands in for one.
    #[must_use]
    pub fn fields(&self) -> BTreeMap<String, String> {
        let own = |field: &Self, value: &Self| Some((field.text()?.to_owned(), value.text()?.to_owned()));
        match self {
            Self::Map(pairs) => pairs
                .iter()
                .filter_map(|(field, value)| own(field, value))
                .collect(),
            _ => self
                .items()
                .as_chunks::<2>()
                .0
                .iter()
                .filter_map(|[field, value]| own(field, value))
                .collect(),
        }
    }
}

fn read_many(from: &mut impl BufRead, raw: &mut Vec<u8>, count: usize) -> io::Result<Vec<Reply>> {
    (0..count).map(|_| Reply::read(from, raw)).collect()
}

fn read_pairs(from: &mut impl BufRead, raw: &mut Vec<u8>, count: usize) -> io::Result<Vec<(Reply, Reply)>> {
    (0..count)
        .map(|_| Ok((Reply::read(from, raw)?, Reply::read(from, raw)?)))
        .collect()
}

/// One line without its CRLF; it holds the type byte at least.
fn read_line(from: &mut impl BufRead, raw: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let start = raw.len();
    from.read_until(b'\n', raw)?;
    match raw[start..].strip_suffix(b"\r\n") {
        Some(line) if !line.is_empty() => Ok(line.to_vec()),
        _ if !raw[start..].ends_with(b"\n") => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(invalid(&raw[start..])),
    }
}

fn read_body(from: &mut impl BufRead, raw: &mut Vec<u8>, count: usize) -> io::Result<Vec<u8>> {
    let (start, mut missing) = (raw.len(), count + 2);
    while missing > 0 {
        let chunk = from.fill_buf()?;
        if chunk.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let used = chunk.len().min(missing);
        raw.extend_from_slice(&chunk[..used]);
        from.consume(used);
        missing -= used;
    }
    match raw[start..].strip_suffix(b"\r\n") {
        Some(body) => Ok(body.to_vec()),
        None => Err(invalid(&raw[start + count..])),
    }
}

fn number(digits: &[u8]) -> io::Result<i64> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| invalid(digits))
}

/// `None` for RESP2's null, -1.
fn length(digits: &[u8]) -> io::Result<Option<usize>> {
    match number(digits)? {
        -1 => Ok(None),
        count => usize::try_from(count).map(Some).map_err(|_| invalid(digits)),
    }
}

fn invalid(bytes: &[u8]) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("no RESP: {:?}", String::from_utf8_lossy(bytes)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Reply) {
        // One byte at a time, with another reply behind it that must stay where it is.
        let stream = [bytes, b"+next\r\n"].concat();
        let mut from = io::BufReader::with_capacity(1, stream.as_slice());
        let mut raw = Vec::new();
        assert_eq!(Reply::read(&mut from, &mut raw).unwrap(), expected);
        assert_eq!(raw, bytes);
        assert_eq!(Reply::read(&mut from, &mut raw).unwrap().text(), Some("next"));
    }

    #[test]
    fn reads_every_type_and_reports_every_byte() {
        check(b"+OK\r\n", Reply::Simple("OK".into()));
        check(b"-ERR no\r\n", Reply::Error("ERR no".into()));
        check(b":-7\r\n", Reply::Integer(-7));
        check(b"$4\r\na\r\nb\r\n", Reply::Bulk(b"a\r\nb".to_vec()));
        check(b"$0\r\n\r\n", Reply::Bulk(vec![]));
        check(b"$-1\r\n", Reply::Null);
        check(b"*-1\r\n", Reply::Null);
        check(b"_\r\n", Reply::Null);
        check(
            b"*2\r\n:1\r\n*0\r\n",
            Reply::Array(vec![Reply::Integer(1), Reply::Array(vec![])]),
        );
        check(
            b"%1\r\n+a\r\n#t\r\n",
            Reply::Map(vec![(Reply::Simple("a".into()), Reply::Bool(true))]),
        );
        check(b"~1\r\n,1.5\r\n", Reply::Set(vec![Reply::Double("1.5".into())]));
        check(b">1\r\n(12\r\n", Reply::Push(vec![Reply::BigNumber("12".into())]));
        check(b"=7\r\ntxt:abc\r\n", Reply::Bulk(b"txt:abc".to_vec()));
        check(b"!6\r\nERR no\r\n", Reply::Error("ERR no".into()));
        check(b"|1\r\n+ttl\r\n:5\r\n:1\r\n", Reply::Integer(1));
    }

    #[test]
    fn tells_an_end_from_nonsense() {
        let kind = |bytes: &[u8]| {
            Reply::read(&mut io::BufReader::new(bytes), &mut Vec::new())
                .unwrap_err()
                .kind()
        };
        for cut in [b"".as_slice(), b"$5\r\nab", b"*2\r\n:1\r\n", b"+O"] {
            assert_eq!(kind(cut), io::ErrorKind::UnexpectedEof, "{cut:?}");
        }
        for wrong in [
            b"hello\r\n".as_slice(),
            b"$x\r\n",
            b"\r\n",
            b"$1\r\nabc\r\n",
            b"$-2\r\n",
        ] {
            assert_eq!(kind(wrong), io::ErrorKind::InvalidData, "{wrong:?}");
        }
    }

    #[test]
    fn flat_arrays_and_maps_have_the_same_fields() {
        let text = |text: &str| Reply::Bulk(text.into());
        let flat = Reply::Array(vec![text("name"), text("mymaster"), text("port"), text("1")]);
        let map = Reply::Map(vec![(text("name"), text("mymaster")), (text("port"), text("1"))]);
        assert_eq!(flat.fields(), map.fields());
        assert_eq!(flat.fields()["name"], "mymaster");
    }
}
