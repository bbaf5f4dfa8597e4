//! What a client asks, by chance, and in which words.

use super::{LARGE_BYTES, PADDING, Session};

/// What was asked.
pub(super) enum Asked {
    Set(u64, String),
    /// More than is ever kept.
    Large(u64, String),
    Get(u64),
    /// A key that others write.
    Peek(u64),
    Push(String),
    Script(String, bool),
    Incr,
    Echo(String),
    Publish,
    /// MULTI, SET, RPUSH log, EXEC in one go.
    Block(u64, String, String),
    Queue(String),
    Pop,
    Job(String),
    Work,
    /// XADD
    Add(String),
    /// XREAD BLOCK, from this number on.
    Read(u64),
    /// A write, and WAIT for its replicas.
    Keep(String),
    Vouch,
}

// === impl Session ===

impl Session {
    pub(super) fn choose(&mut self) -> Asked {
        let key = self.rng.below(2);
        match self.rng.below(20) {
            0 | 1 => Asked::Set(key, self.id()),
            2 | 3 => Asked::Get(key),
            4 | 5 => Asked::Push(self.id()),
            6 => Asked::Incr,
            7 => Asked::Echo(self.id()),
            8 => Asked::Publish,
            9 | 10 => Asked::Block(key, self.id(), self.id()),
            11 => Asked::Script(self.id(), self.rng.once_in(2)),
            12 => Asked::Queue(self.id()),
            13 => Asked::Pop,
            14 => Asked::Job(self.id()),
            15 => Asked::Work,
            16 => Asked::Add(self.id()),
            17 => Asked::Read(self.read_from()),
            18 if self.rng.once_in(2) => Asked::Keep(self.id()),
            18 => Asked::Vouch,
            _ if self.tracks() => Asked::Peek(key),
            _ if self.rng.once_in(4) => Asked::Large(key, self.id()),
            _ => Asked::Get(key),
        }
    }

    pub(super) fn line(&mut self, asked: &Asked) -> String {
        let name = self.name.clone();
        match asked {
            Asked::Set(key, value) => format!("SET {name}:{key} {value}"),
            Asked::Large(key, value) => {
                let padding = String::from(PADDING).repeat(LARGE_BYTES);
                format!("SET {name}:{key} {value}{padding}")
            }
            Asked::Get(key) => format!("GET {name}:{key}"),
            Asked::Peek(key) => format!("GET cas:{key}"),
            Asked::Push(id) => format!("RPUSH log {id}"),
            Asked::Script(id, false) => format!("EVAL push 1 log {id}"),
            Asked::Script(id, true) => format!("EVAL push-then-refuse 1 log {id}"),
            Asked::Incr => format!("INCR {name}:n"),
            Asked::Echo(id) => format!("ECHO {id}"),
            Asked::Publish => format!("PUBLISH news {}", self.id()),
            Asked::Block(key, value, id) => {
                format!("MULTI; SET {name}:{key} {value}; RPUSH log {id}; EXEC")
            }
            Asked::Queue(id) => format!("RPUSH {name}:q {id}"),
            Asked::Pop => format!("BLPOP {name}:q 0.1"),
            Asked::Job(id) => format!("RPUSH jobs {id}"),
            Asked::Work => "BLPOP jobs 0.4".to_owned(),
            Asked::Add(id) => format!("XADD {name}:x * f {id}"),
            Asked::Read(from) => format!("XREAD BLOCK 100 STREAMS {name}:x {from}-0"),
            Asked::Keep(id) => format!("RPUSH {name}:w {id}"),
            Asked::Vouch => "WAIT 1 100".to_owned(),
        }
    }
}
