//! Replies as values, for those that the proxy asked for itself (Sentinel's, ROLE, CLUSTER). Off the hot path.

use crate::error::ReplyError;
use crate::frame::Progress;
use crate::limits::MAX_VALUE_DEPTH;
use crate::scan::ReplyScan;
use redis_protocol::{resp2, resp3};

/// A decoded reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `$-1`, `*-1` or `_`
    Null,
    /// A simple, bulk, verbatim or big number reply.
    Text(Vec<u8>),
    /// An error of either spelling, without its type byte.
    Error(String),
    /// `:7`
    Integer(i64),
    /// `,1.5`
    Double(f64),
    /// `#t`
    Bool(bool),
    /// An array, a set or a push.
    Array(Vec<Value>),
    /// RESP3's map, in the order of the wire.
    Map(Vec<(Value, Value)>),
}

/// Decodes one whole reply frame, of RESP2 or RESP3. Attributes are left out. Sets of aggregates (COMMAND in RESP3)
/// are more than the library can hold: ask for those in RESP2.
///
/// # Errors
/// What the scanner refuses, [`ReplyError::Incomplete`] for less or more than one frame, and
/// [`ReplyError::Malformed`] for lines that do not hold what their type says.
pub fn decode(reply: &[u8]) -> Result<Value, ReplyError> {
    // The library behind this recurses without a bound and trusts lengths: the scanner goes first.
    match ReplyScan::no_deeper_than(MAX_VALUE_DEPTH).feed(reply)? {
        Progress::Complete { used, .. } if used == reply.len() => {}
        _ => return Err(ReplyError::Incomplete),
    }
    if let Ok(Some((frame, _))) = resp2::decode::decode(reply) {
        return Ok(from_resp2(frame));
    }
    match resp3::decode::complete::decode(reply) {
        Ok(Some((frame, _))) => from_resp3(frame),
        _ => Err(ReplyError::Malformed),
    }
}

// === impl Value ===

impl Value {
    /// Text that is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// Text of any bytes.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Text(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// An integer, also one that came as text, as Sentinel and INFO write them.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            other => other.as_str()?.parse().ok(),
        }
    }

    /// The elements of an array, a set or a push.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }

    /// The text of an error.
    pub fn as_error(&self) -> Option<&str> {
        match self {
            Self::Error(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a field: of a map, or of RESP2's array of names and values in turn.
    pub fn get(&self, field: &str) -> Option<&Value> {
        match self {
            Self::Map(pairs) => pairs
                .iter()
                .find(|(name, _)| name.as_str() == Some(field))
                .map(|(_, value)| value),
            Self::Array(values) => values.chunks_exact(2).find_map(|pair| match pair {
                [name, value] if name.as_str() == Some(field) => Some(value),
                _ => None,
            }),
            _ => None,
        }
    }
}

fn from_resp2(frame: resp2::types::OwnedFrame) -> Value {
    use resp2::types::OwnedFrame as F;
    match frame {
        F::SimpleString(text) | F::BulkString(text) => Value::Text(text),
        F::Error(text) => Value::Error(text),
        F::Integer(value) => Value::Integer(value),
        F::Array(values) => Value::Array(values.into_iter().map(from_resp2).collect()),
        F::Null => Value::Null,
    }
}

fn from_resp3(frame: resp3::types::OwnedFrame) -> Result<Value, ReplyError> {
    use resp3::types::OwnedFrame as F;
    let list = |values: Vec<F>| {
        values
            .into_iter()
            .map(from_resp3)
            .collect::<Result<_, _>>()
            .map(Value::Array)
    };
    Ok(match frame {
        F::SimpleString { data, .. }
        | F::BlobString { data, .. }
        | F::BigNumber { data, .. }
        | F::VerbatimString { data, .. } => Value::Text(data),
        F::SimpleError { data, .. } => Value::Error(data),
        F::BlobError { data, .. } => Value::Error(String::from_utf8_lossy(&data).into_owned()),
        F::Number { data, .. } => Value::Integer(data),
        F::Double { data, .. } => Value::Double(data),
        F::Boolean { data, .. } => Value::Bool(data),
        F::Null => Value::Null,
        F::Array { data, .. } | F::Push { data, .. } => list(data)?,
        F::Set { data, .. } => list(data.into_iter().collect())?,
        F::Map { data, .. } => Value::Map(
            // The library collects a map from its end.
            data.into_iter()
                .rev()
                .map(|(name, value)| Ok((from_resp3(name)?, from_resp3(value)?)))
                .collect::<Result<_, _>>()?,
        ),
        F::Hello { .. } | F::ChunkedString(_) => return Err(ReplyError::Streamed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentinel_master_is_a_table_of_fields() {
        let reply = b"*4\r\n$4\r\nname\r\n$8\r\nmymaster\r\n$12\r\nconfig-epoch\r\n$2\r\n17\r\n";
        let master = decode(reply).expect("well-formed");
        assert_eq!(master.get("name").and_then(Value::as_str), Some("mymaster"));
        assert_eq!(master.get("config-epoch").and_then(Value::as_int), Some(17));
        assert_eq!(master.get("mymaster"), None);
    }

    #[test]
    fn decodes_both_protocols() {
        let text = |text: &str| Value::Text(text.as_bytes().to_vec());
        for (reply, want) in [
            ("+OK\r\n", text("OK")),
            ("-ERR no\r\n", Value::Error("ERR no".into())),
            ("$-1\r\n", Value::Null),
            ("*-1\r\n", Value::Null),
            ("_\r\n", Value::Null),
            (
                "*2\r\n$-1\r\n:-5\r\n",
                Value::Array(vec![Value::Null, Value::Integer(-5)]),
            ),
            (
                "%1\r\n$1\r\na\r\n:1\r\n",
                Value::Map(vec![(text("a"), Value::Integer(1))]),
            ),
            (
                ">2\r\n+message\r\n#t\r\n",
                Value::Array(vec![text("message"), Value::Bool(true)]),
            ),
            (",1.5\r\n", Value::Double(1.5)),
            ("=7\r\ntxt:abc\r\n", text("abc")),
            ("!6\r\nERR no\r\n", Value::Error("ERR no".into())),
            ("|1\r\n+a\r\n+b\r\n:1\r\n", Value::Integer(1)),
        ] {
            assert_eq!(decode(reply.as_bytes()), Ok(want), "{reply:?}");
        }
    }

    #[test]
    fn refuses_what_is_not_one_frame() {
        for (reply, want) in [
            (b"".as_slice(), ReplyError::Incomplete),
            (b"$3\r\nab", ReplyError::Incomplete),
            (b"+OK\r\n+OK\r\n", ReplyError::Incomplete),
            (b":abc\r\n", ReplyError::Malformed),
            (b"?\r\n", ReplyError::UnexpectedType(b'?')),
        ] {
            assert_eq!(decode(reply), Err(want), "{reply:?}");
        }
        assert_eq!(decode(&b"*1\r\n".repeat(5000)), Err(ReplyError::TooDeep));
    }
}
