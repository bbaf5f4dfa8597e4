//! What a random client says: anything whose answer two servers must agree on.

use testkit::client::encode;

use super::Chance;

/// A client, as far as it must know itself to say nothing whose answer is chance.
pub(crate) struct Speaker {
    letter: u8,
    /// It may be blocked still.
    waits: bool,
    /// It has said its last.
    over: bool,
}

/// `K` stands for a key, `N` for a small number, `V` for a value, `C` for a channel.
const DATA: &[&str] = &[
    "GET K",
    "GET K",
    "SET K V",
    "SET K N",
    "SETNX K V",
    "GETSET K V",
    "GETDEL K",
    "APPEND K V",
    "STRLEN K",
    "INCR K",
    "DECRBY K N",
    "INCRBYFLOAT K 1.5",
    "SETRANGE K N V",
    "GETRANGE K 0 N",
    "MGET K K K",
    "MSET K V K V",
    "MSETNX K V K V",
    "DEL K",
    "DEL K K",
    "UNLINK K",
    "EXISTS K K",
    "TYPE K",
    "RENAME K K",
    "RENAMENX K K",
    "COPY K K REPLACE",
    "PERSIST K",
    "EXPIREAT K 33177117420",
    "EXPIRETIME K",
    "LPUSH K V N",
    "RPUSH K V",
    "LPOP K",
    "RPOP K N",
    "LRANGE K 0 -1",
    "LLEN K",
    "LINDEX K N",
    "LSET K 0 V",
    "LREM K 0 V",
    "LMOVE K K LEFT RIGHT",
    "LTRIM K 0 N",
    "HSET K f V g N",
    "HGET K f",
    "HGETALL K",
    "HDEL K f",
    "HINCRBY K g N",
    "HLEN K",
    "SADD K N N",
    "SREM K N",
    "SCARD K",
    "SISMEMBER K N",
    "SMEMBERS K",
    "ZADD K N a N b",
    "ZRANGE K 0 -1 WITHSCORES",
    "ZINCRBY K N a",
    "ZREM K a",
    "ZPOPMIN K",
    "ZSCORE K b",
    "XADD K N-N f V",
    "XLEN K",
    "XRANGE K - +",
    "XDEL K N-N",
    "SETBIT K N 1",
    "BITCOUNT K",
    "PFADD K V",
    "PFCOUNT K",
    "GETEX K PERSIST",
    "OBJECT REFCOUNT none",
    "DBSIZE",
    "PING",
    "PING V",
    "ECHO V",
    "SORT K",
    "TOUCH K",
    "LPOS K V",
    "SMOVE K K N",
    "SINTERCARD 2 K K",
    "BITOP AND K K K",
    "DUMP none",
    "WAIT 0 0",
    "COMMAND COUNT",
    "SCAN x",
    "PUBLISH C V",
    "PUBLISH C V",
    "SPUBLISH C V",
    "NOSUCH V K",
    "GET",
    "SET K",
    "CONFIG NOSUCH",
    "CONFIG GET maxmemory-policy",
    "SELECT N",
    "SELECT 0",
    "SELECT 99",
    "SWAPDB 0 1",
    "CLIENT SETNAME nV",
    "CLIENT GETNAME",
    "CLIENT SETNAME",
    "MOVE K N",
    "FLUSHDB",
    "UNWATCH",
    "UNSUBSCRIBE C",
    "EVALSHA ffffffffffffffffffffffffffffffffffffffff 0",
    "SCRIPT EXISTS x",
    "PUBSUB NUMSUB C",
    "CLIENT TRACKINGINFO x",
    "CLUSTER NOSUCH",
    "LATENCY RESET",
    "OBJECT HELP",
    "XREAD COUNT 1 STREAMS K 0",
    "EVAL_RO return{redis.call('exists',KEYS[1]),ARGV[1]} 1 K V",
    "EVAL return{redis.call('incr',KEYS[1]),ARGV[1]} 1 K V",
    "EVAL return{redis.pcall('lpush',KEYS[1],ARGV[1])} 1 K V",
];

/// What changes how a session travels.
const WAYS: &[&str] = &[
    "MULTI",
    "MULTI",
    "EXEC",
    "EXEC",
    "EXEC",
    "DISCARD",
    "WATCH K",
    "WATCH K K",
    "SUBSCRIBE C",
    "UNSUBSCRIBE",
    "UNSUBSCRIBE",
    "PSUBSCRIBE C*",
    "PUNSUBSCRIBE",
    "SSUBSCRIBE C",
    "SUNSUBSCRIBE",
    "RESET",
    "HELLO 9",
    "HELLO 3 x",
    "AUTH x",
    "BLPOP K K 0.001",
    "BLMOVE K K LEFT RIGHT 0.001",
    "BZPOPMIN K 0.001",
    "XREAD BLOCK 1 STREAMS K $",
    "WAIT 1 1",
    "CLIENT NO-EVICT OFF",
    "DEBUG SLEEP 0",
    "SCRIPT KILL",
    "CLIENT REPLY ON",
    "MULTI x",
    "WATCH",
    "SUBSCRIBE",
    "BLPOP K x",
];

/// What may stay open until another client acts; nothing stands behind it but what no client's turn can change.
const WAITING: &[&str] = &[
    "BLPOP K 0",
    "BRPOP K K 0",
    "BLMOVE K K RIGHT LEFT 0",
    "BZPOPMAX K 0",
    "BLMPOP 0 2 K K LEFT COUNT 2",
];

// === impl Speaker ===

impl Speaker {
    pub(super) fn new(letter: u8) -> Self {
        Self {
            letter,
            waits: false,
            over: false,
        }
    }

    pub(super) fn name(&self) -> char {
        char::from(self.letter)
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Another client in the place of one that has gone.
    pub(super) fn successor(&self) -> Self {
        Self::new(b'A' + (self.letter - b'A' + 3) % 24)
    }

    /// So many commands, each as it goes over the wire.
    pub(super) fn speak(&mut self, chance: &mut Chance, depth: usize) -> Vec<Vec<u8>> {
        if self.waits {
            // When it goes on is another client's doing: then it must touch nothing that others do.
            return vec![encode(&["ECHO", "later"])];
        }
        let mut commands: Vec<Vec<u8>> = (0..depth).map(|_| Self::command(chance)).collect();
        match chance.below(40) {
            0..3 => {
                self.waits = true;
                commands.push(written(chance, WAITING));
                commands.extend((0..chance.below(3)).map(|_| encode(&["ECHO", "behind"])));
            }
            3 => {
                commands.push(encode(&["QUIT"]));
                commands.extend((0..chance.below(3)).map(|_| written(chance, DATA)));
                self.over = true;
            }
            4 => {
                let broken: [&[u8]; 4] = [b"*x\r\n", b"*1\r\n:1\r\n", b"*1\r\n$-1\r\n", b"GET 'k\r\n"];
                commands.push(chance.pick(&broken).to_vec());
                self.over = true;
            }
            _ => {}
        }
        commands
    }

    fn command(chance: &mut Chance) -> Vec<u8> {
        match chance.below(100) {
            0..70 => written(chance, DATA),
            70..86 => written(chance, WAYS),
            86..88 => hushed(chance),
            // Whole transactions would be rare otherwise.
            88..94 => {
                let mut block = encode(&["MULTI"]);
                for _ in 0..chance.below(4) {
                    block.extend(written(chance, DATA));
                }
                // Behind a WATCH, and outside of a transaction, it makes EXEC answer null: see SEMANTICS.
                if chance.one_in(4) {
                    block.extend(written(chance, &["HELLO 3", "HELLO 2", "SELECT N"]));
                }
                block.extend(encode(&["EXEC"]));
                block
            }
            94 => b"\r\nPING\r\n".to_vec(),
            95 => b"\r\n".to_vec(),
            96 => format!("PING {}\r\n", chance.below(9)).into_bytes(),
            97 => b"SET a 'in line'\r\n".to_vec(),
            98 => {
                let len = chance.pick(&[65_500, 65_536, 131_072, 262_100, 262_144, 300_000]);
                encode(&["SET", key(chance), &"x".repeat(len + chance.below(40))])
            }
            _ => encode(&["MGET", key(chance), key(chance), key(chance), key(chance)]),
        }
    }
}

/// Commands whose answers are kept back, and not in a transaction. What stands behind them is answered again: others
/// wait for that.
fn hushed(chance: &mut Chance) -> Vec<u8> {
    let mut block = encode(&["DISCARD"]);
    block.extend(encode(&["CLIENT", "REPLY", chance.pick(&["OFF", "SKIP"])]));
    for _ in 0..chance.below(4) {
        block.extend(written(chance, DATA));
    }
    block.extend(encode(&["CLIENT", "REPLY", "ON"]));
    block
}

/// One of these, with its letters filled in.
fn written(chance: &mut Chance, all: &[&str]) -> Vec<u8> {
    let template = chance.pick(all);
    let mut words: Vec<String> = Vec::new();
    // A script holds no blank: one would end it.
    for word in template.split(' ') {
        words.push(match word {
            "K" => key(chance).to_owned(),
            "N" => chance.below(4).to_string(),
            "N-N" => format!("{}-{}", chance.below(3), chance.below(3)),
            "V" => chance
                .pick(&["", "v", "7", "a\r\nb", "*1\r\n", "\u{0}"])
                .to_string(),
            "nV" => chance.pick(&["", "me", "not this"]).to_string(),
            "C" => "c".to_owned(),
            "C*" => "c*".to_owned(),
            plain => plain.to_owned(),
        });
    }
    encode(&words)
}

/// Whether it may wait, and not for ever.
pub(super) fn is_timed(command: &[u8]) -> bool {
    let holds = |word: &[u8]| command.windows(word.len()).any(|window| window == word);
    holds(b"0.001") || holds(b"BLOCK") || holds(b"WAIT")
}

fn key(chance: &mut Chance) -> &'static str {
    chance.pick(&["a", "b", "c", "d", "e", ""])
}
