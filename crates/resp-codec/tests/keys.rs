//! Where keys stand: each row is what `COMMAND GETKEYS` of Redis 7.0 and Valkey 8.1 answers.

use bytes::BytesMut;
use resp_codec::{Command, KeyError, RequestLimits, RequestScan, slot, write};

/// The keys of a command given as words parted by single blanks.
fn keys(line: &str) -> Result<Vec<String>, KeyError> {
    let args: Vec<_> = line.split(' ').map(str::as_bytes).collect();
    let mut frame = BytesMut::new();
    write::command(&mut frame, &args);
    let found = RequestScan::default().advance(&frame, &RequestLimits::AUTHENTICATED);
    let command = Command::new(&frame, found.expect("well-formed").expect("complete"));
    let text = |range| String::from_utf8_lossy(&command.text()[range]).into_owned();
    Ok(command.keys()?.into_iter().map(text).collect())
}

#[test]
fn keys_are_those_of_command_getkeys() {
    let rows: &[(&str, Result<&[&str], KeyError>)] = &[
        ("GET k", Ok(&["k"])),
        ("SET k v", Ok(&["k"])),
        ("SET k v EX 10 GET", Ok(&["k"])),
        ("MGET a b c", Ok(&["a", "b", "c"])),
        ("MSET a 1 b 2 c 3", Ok(&["a", "b", "c"])),
        ("MSET a 1 b", Ok(&["a", "b"])),
        ("DEL a b", Ok(&["a", "b"])),
        ("EXISTS a b c", Ok(&["a", "b", "c"])),
        ("RENAME a b", Ok(&["a", "b"])),
        ("COPY a b REPLACE", Ok(&["a", "b"])),
        ("BITOP AND dest a b", Ok(&["dest", "a", "b"])),
        ("PFCOUNT a b", Ok(&["a", "b"])),
        ("PFMERGE d a b", Ok(&["d", "a", "b"])),
        ("SINTERSTORE d a b", Ok(&["d", "a", "b"])),
        ("SINTERCARD 2 a b LIMIT 1", Ok(&["a", "b"])),
        ("SMOVE a b m", Ok(&["a", "b"])),
        ("LMOVE a b LEFT RIGHT", Ok(&["a", "b"])),
        ("BLMOVE a b LEFT RIGHT 0", Ok(&["a", "b"])),
        ("BLPOP a b 0", Ok(&["a", "b"])),
        ("BRPOPLPUSH a b 0", Ok(&["a", "b"])),
        ("BZPOPMIN a b 0", Ok(&["a", "b"])),
        ("LMPOP 2 a b LEFT COUNT 3", Ok(&["a", "b"])),
        ("LMPOP 3 a b LEFT", Ok(&["a", "b", "LEFT"])),
        ("LMPOP x a b LEFT", Err(KeyError::InvalidArguments)),
        ("LMPOP 0 a LEFT", Err(KeyError::InvalidArguments)),
        ("LMPOP -1 a LEFT", Err(KeyError::InvalidArguments)),
        ("BLMPOP 0 2 a b LEFT", Ok(&["a", "b"])),
        ("ZMPOP 1 a MIN", Ok(&["a"])),
        ("BZMPOP 1.5 2 a b MIN", Ok(&["a", "b"])),
        ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", Ok(&["d", "a", "b"])),
        ("ZINTERSTORE d 1 a", Ok(&["d", "a"])),
        ("ZDIFFSTORE d 2 a b", Ok(&["d", "a", "b"])),
        ("ZUNION 2 a b WITHSCORES", Ok(&["a", "b"])),
        ("ZDIFF 3 a b c", Ok(&["a", "b", "c"])),
        ("ZRANGESTORE d s 0 -1", Ok(&["d", "s"])),
        ("ZADD z 1 m", Ok(&["z"])),
        ("GEOADD g 1 2 m", Ok(&["g"])),
        ("GEOSEARCHSTORE d s FROMMEMBER m BYRADIUS 1 km", Ok(&["d", "s"])),
        ("GEORADIUS g 1 2 3 km", Ok(&["g"])),
        ("GEORADIUS g 1 2 3 km STORE d", Ok(&["g", "d"])),
        ("GEORADIUS g 1 2 3 km COUNT 5 STOREDIST d", Ok(&["g", "d"])),
        ("GEORADIUS g 1 2 3 km STORE d STOREDIST e", Ok(&["g", "d", "e"])),
        ("GEORADIUS_RO g 1 2 3 km", Ok(&["g"])),
        ("GEORADIUSBYMEMBER g m 3 km STORE d", Ok(&["g", "d"])),
        ("GEORADIUSBYMEMBER_RO g m 3 km", Ok(&["g"])),
        ("EVAL x 2 a b c", Ok(&["a", "b"])),
        ("EVAL x 0", Ok(&[])),
        ("EVAL x 0 a", Ok(&[])),
        ("EVALSHA abc 1 a", Ok(&["a"])),
        ("EVAL_RO x 1 a", Ok(&["a"])),
        ("FCALL f 1 a b", Ok(&["a"])),
        ("FCALL_RO f 0", Ok(&[])),
        ("XREAD STREAMS a b 0 0", Ok(&["a", "b"])),
        ("XREAD COUNT 1 BLOCK 0 STREAMS a 0", Ok(&["a"])),
        ("XREAD STREAMS a b 0", Ok(&["a"])),
        ("XREAD COUNT 1 BLOCK 0", Err(KeyError::InvalidArguments)),
        ("XREADGROUP GROUP g c STREAMS a >", Ok(&["a"])),
        (
            "XREADGROUP GROUP g c COUNT 1 NOACK STREAMS a b > >",
            Ok(&["a", "b"]),
        ),
        ("XREADGROUP GROUP streams c STREAMS a >", Ok(&["a"])),
        ("XREADGROUP GROUP g streams STREAMS a >", Ok(&["a"])),
        ("XADD s * f v", Ok(&["s"])),
        ("XGROUP CREATE s g $", Ok(&["s"])),
        ("XGROUP HELP", Ok(&[])),
        ("XINFO STREAM s", Ok(&["s"])),
        ("XINFO HELP", Ok(&[])),
        ("OBJECT ENCODING k", Ok(&["k"])),
        ("OBJECT FREQ k", Ok(&["k"])),
        ("OBJECT HELP", Ok(&[])),
        ("MEMORY USAGE k", Ok(&["k"])),
        ("MEMORY USAGE k SAMPLES 5", Ok(&["k"])),
        ("MEMORY STATS", Ok(&[])),
        ("DEBUG OBJECT k", Ok(&[])),
        ("SORT l", Ok(&["l"])),
        ("SORT l BY w_* GET p_* LIMIT 0 5 STORE d", Ok(&["l", "d"])),
        ("SORT l STORE d STORE e", Ok(&["l", "e"])),
        ("SORT l STORE", Ok(&["l"])),
        ("SORT l GET STORE x", Ok(&["l"])),
        ("SORT l by nosort get # store d", Ok(&["l", "d"])),
        ("SORT_RO l GET p_*", Ok(&["l"])),
        ("MIGRATE h 1 k 0 10", Ok(&["k"])),
        ("MIGRATE h 1 k 0 10 COPY REPLACE", Ok(&["k"])),
        ("MIGRATE h 1  0 10 KEYS a b c", Ok(&["a", "b", "c"])),
        ("MIGRATE h 1 k 0 10 KEYS a b", Err(KeyError::InvalidArguments)),
        ("MIGRATE h 1  0 10 COPY AUTH keys KEYS a b", Ok(&["a", "b"])),
        ("MIGRATE h 1  0 10 AUTH2 keys keys KEYS a b", Ok(&["a", "b"])),
        ("MIGRATE h 1 k 0 10 AUTH2 u p", Ok(&["k"])),
        ("LCS a b", Ok(&["a", "b"])),
        ("WATCH a b", Ok(&["a", "b"])),
        ("TOUCH a b", Ok(&["a", "b"])),
        ("UNLINK a b", Ok(&["a", "b"])),
        ("HSET h f v", Ok(&["h"])),
        ("SSCAN s 0", Ok(&["s"])),
        ("SCAN 0", Ok(&[])),
        ("DBSIZE", Ok(&[])),
        ("PING", Ok(&[])),
        ("PUBLISH c m", Ok(&[])),
        ("SPUBLISH c m", Ok(&[])),
        ("SSUBSCRIBE c d", Ok(&[])),
        ("SUBSCRIBE c", Ok(&[])),
        ("CONFIG GET x", Ok(&[])),
        ("CLIENT SETNAME x", Ok(&[])),
        ("SWAPDB 0 1", Ok(&[])),
        ("RESTORE k 0 x", Ok(&["k"])),
        ("DUMP k", Ok(&["k"])),
        ("GETEX k PERSIST", Ok(&["k"])),
        ("GETDEL k", Ok(&["k"])),
        ("APPEND k v", Ok(&["k"])),
        ("SETRANGE k 0 v", Ok(&["k"])),
        ("BITFIELD k GET u8 0", Ok(&["k"])),
        ("RESTORE-ASKING k 0 x", Ok(&["k"])),
        ("PFDEBUG GETREG k", Ok(&["k"])),
        ("FLUSHALL", Ok(&[])),
        ("GET", Err(KeyError::InvalidArguments)),
        ("GET a b", Err(KeyError::InvalidArguments)),
        ("NOSUCH a b", Err(KeyError::UnknownCommand)),
        ("ZINTERCARD 2 a b", Ok(&["a", "b"])),
        ("RPOPLPUSH a b", Ok(&["a", "b"])),
        ("MSETNX a 1 b 2", Ok(&["a", "b"])),
        ("HRANDFIELD h", Ok(&["h"])),
        ("XAUTOCLAIM s g c 0 0", Ok(&["s"])),
        ("XDEL s 0", Ok(&["s"])),
        ("CLUSTER KEYSLOT k", Ok(&[])),
        ("PFSELFTEST", Ok(&[])),
        ("LINSERT l BEFORE p v", Ok(&["l"])),
        ("EXPIRE k 10", Ok(&["k"])),
    ];
    for (line, want) in rows {
        let want = want.map(|keys| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>());
        assert_eq!(keys(line), want, "{line}");
    }
}

/// COMMAND GETKEYS answers these with no keys, or guesses; the nodes refuse the commands themselves.
#[test]
fn a_wrong_number_of_keys_is_an_error() {
    for line in [
        "EVAL x 3 a b",
        "EVAL x -1 a",
        "EVAL x y a",
        "EVAL x 01 a",
        "FCALL f 9223372036854775807 a",
    ] {
        assert_eq!(keys(line), Err(KeyError::InvalidArguments), "{line}");
    }
}

#[test]
fn inline_keys_stand_in_the_resolved_text() {
    let frame = b"mget \"a b\" c'd' \"\\x41\"\r\n";
    let found = RequestScan::default().advance(frame, &RequestLimits::AUTHENTICATED);
    let command = Command::new(frame, found.expect("well-formed").expect("complete"));
    let keys = command.keys().expect("known");
    let keys: Vec<_> = keys.into_iter().map(|range| &command.text()[range]).collect();
    assert_eq!(keys, [b"a b".as_slice(), b"cd", b"A"]);
    assert_eq!(command.frame(), &frame);
}

/// From `CLUSTER KEYSLOT` of both servers.
#[test]
fn slots() {
    for (key, want) in [
        ("", 0),
        ("foo", 12182),
        ("bar", 5061),
        ("123456789", 12739),
        ("{user1000}.following", 3443),
        ("{user1000}.followers", 3443),
        ("foo{}{bar}", 8363),
        ("foo{{bar}}zap", 4015),
        ("foo{bar}{zap}", 5061),
        ("{", 4092),
        ("}", 12090),
        ("{}", 15257),
        ("a{", 14311),
        ("a{b", 13340),
        ("{a}", 15495),
        ("}{a}", 15495),
        ("a{b}c}", 3300),
        ("{{a}}", 10276),
    ] {
        assert_eq!(slot::of(key.as_bytes()), want, "{key}");
    }
}
