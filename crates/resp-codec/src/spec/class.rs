//! How commands travel: the short list that no server can tell us, kept by hand.

use super::CommandFlags;
use super::lookup::same;

/// What a command does to the dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The servers flag it `readonly`.
    Read,
    /// The servers flag it `write`; also scripts and unknown commands, which may.
    Write,
    /// Neither: it does not touch the dataset.
    Neither,
}

/// How a command travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Keyed, keyless, scripts and whatever is unknown: the shared way.
    Data,
    /// The state of the connection: AUTH, HELLO, SELECT, most of CLIENT, RESET, QUIT; INFO, which tells of clients.
    Session,
    /// MULTI, EXEC, DISCARD, WATCH, UNWATCH.
    Transaction,
    /// May wait for others to write.
    Blocking,
    /// Waits for replication: WAIT, WAITAOF.
    Wait,
    /// Subscribing and unsubscribing, in all three spellings.
    Subscription,
    /// Turns the connection into a stream: MONITOR, SYNC, PSYNC.
    Stream,
    /// Stops scripts or servers or asks after them, and must not queue behind them; or tells a node what slipring must
    /// know: what to be, whom to let in.
    Control,
    /// State of the node's connection that cannot be shared or moved; pins the session for its life.
    Tracking,
    /// The proxy's own: no server knows it.
    Own,
    /// Scripts by text or digest: as [`Self::Data`], once it is known where the script is.
    Script,
    /// Commands with a cursor, which belongs to one node: as [`Self::Data`], once it is known to which.
    Scan,
    /// PUBLISH, SPUBLISH, PUBSUB, which concern those who are subscribed: as [`Self::Data`], once those are who subscribed
    /// before.
    Audience,
    /// Commands that the table does not know: as [`Self::Data`], once the node has said what they do.
    Unknown,
}

// === impl Class ===

impl Class {
    /// How many classes there are: per-class metrics are arrays of this length.
    pub const COUNT: usize = Self::ALL.len();

    /// Each class, in the order of [`Self::index`].
    pub const ALL: [Self; 14] = [
        Self::Data,
        Self::Session,
        Self::Transaction,
        Self::Blocking,
        Self::Wait,
        Self::Subscription,
        Self::Stream,
        Self::Control,
        Self::Tracking,
        Self::Own,
        Self::Script,
        Self::Scan,
        Self::Audience,
        Self::Unknown,
    ];

    /// Whether it goes over shared connections.
    #[inline]
    pub fn is_shared(self) -> bool {
        matches!(
            self,
            Self::Data | Self::Script | Self::Scan | Self::Audience | Self::Unknown
        )
    }

    /// A dense index.
    #[inline]
    pub fn index(self) -> usize {
        self as usize
    }

    /// As a metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Session => "session",
            Self::Transaction => "transaction",
            Self::Blocking => "blocking",
            Self::Wait => "wait",
            Self::Subscription => "subscription",
            Self::Stream => "stream",
            Self::Control => "control",
            Self::Tracking => "tracking",
            Self::Own => "own",
            Self::Script => "script",
            Self::Scan => "scan",
            Self::Audience => "audience",
            Self::Unknown => "unknown",
        }
    }
}

pub(super) const fn class_of(name: &str, flags: CommandFlags) -> Class {
    let mut rest: &[(&str, Class)] = &CLASSES;
    while let [(known, class), more @ ..] = rest {
        if same(known.as_bytes(), name.as_bytes()) {
            return *class;
        }
        rest = more;
    }
    if starts_with(name.as_bytes(), b"client|") {
        Class::Session
    } else if starts_with(name.as_bytes(), b"pubsub") {
        Class::Audience
    } else if flags.contains(CommandFlags::BLOCKING) {
        Class::Blocking
    } else {
        Class::Data
    }
}

pub(super) const fn is_script(name: &str) -> bool {
    let name = name.as_bytes();
    starts_with(name, b"eval") || starts_with(name, b"fcall")
}

pub(super) const fn access_of(flags: CommandFlags) -> Access {
    if flags.contains(CommandFlags::READONLY) {
        Access::Read
    } else if flags.contains(CommandFlags::WRITE) || flags.contains(CommandFlags::SCRIPT) {
        Access::Write
    } else {
        Access::Neither
    }
}

const CLASSES: [(&str, Class); 55] = [
    ("auth", Class::Session),
    ("hello", Class::Session),
    ("select", Class::Session),
    ("info", Class::Session),
    ("client", Class::Session),
    ("reset", Class::Session),
    ("quit", Class::Session),
    ("asking", Class::Session),
    ("readonly", Class::Session),
    ("readwrite", Class::Session),
    ("client|tracking", Class::Tracking),
    ("client|caching", Class::Tracking),
    ("client|no-evict", Class::Tracking),
    ("client|no-touch", Class::Tracking),
    ("replconf", Class::Tracking),
    ("script|debug", Class::Tracking),
    ("multi", Class::Transaction),
    ("exec", Class::Transaction),
    ("discard", Class::Transaction),
    ("watch", Class::Transaction),
    ("unwatch", Class::Transaction),
    ("wait", Class::Wait),
    ("waitaof", Class::Wait),
    ("subscribe", Class::Subscription),
    ("unsubscribe", Class::Subscription),
    ("psubscribe", Class::Subscription),
    ("punsubscribe", Class::Subscription),
    ("ssubscribe", Class::Subscription),
    ("sunsubscribe", Class::Subscription),
    ("monitor", Class::Stream),
    ("sync", Class::Stream),
    ("psync", Class::Stream),
    ("script|kill", Class::Control),
    ("function|kill", Class::Control),
    ("function|stats", Class::Control),
    ("shutdown", Class::Control),
    ("debug", Class::Control),
    ("replicaof", Class::Control),
    ("slaveof", Class::Control),
    ("failover", Class::Control),
    ("config|set", Class::Control),
    ("acl|setuser", Class::Control),
    ("acl|load", Class::Control),
    ("eval", Class::Script),
    ("eval_ro", Class::Script),
    ("evalsha", Class::Script),
    ("evalsha_ro", Class::Script),
    ("script|load", Class::Script),
    ("script|flush", Class::Script),
    ("scan", Class::Scan),
    ("hscan", Class::Scan),
    ("sscan", Class::Scan),
    ("zscan", Class::Scan),
    ("publish", Class::Audience),
    ("spublish", Class::Audience),
];

const fn starts_with(text: &[u8], prefix: &[u8]) -> bool {
    match text.split_at_checked(prefix.len()) {
        Some((start, _)) => same(start, prefix),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{CommandSpec, TABLE};

    fn spec(name: &str) -> &'static CommandSpec {
        TABLE
            .iter()
            .find(|spec| spec.name == name)
            .unwrap_or_else(|| panic!("{name} is not in the table"))
    }

    #[test]
    fn every_name_kept_by_hand_is_in_the_table() {
        for (name, class) in CLASSES {
            assert_eq!(spec(name).class, class, "{name}");
        }
    }

    #[test]
    fn classes_of_the_rest() {
        for (name, want) in [
            ("get", Class::Data),
            ("fcall", Class::Data),
            ("script|exists", Class::Data),
            ("pubsub", Class::Audience),
            ("pubsub|channels", Class::Audience),
            ("client|setname", Class::Session),
            ("client|setinfo", Class::Session),
            ("blpop", Class::Blocking),
            ("xread", Class::Blocking),
            ("xreadgroup", Class::Blocking),
            ("bzmpop", Class::Blocking),
            ("other", Class::Unknown),
        ] {
            assert_eq!(spec(name).class, want, "{name}");
        }
    }

    #[test]
    fn access() {
        for (name, want) in [
            ("get", Access::Read),
            ("set", Access::Write),
            ("getdel", Access::Write),
            ("ping", Access::Neither),
            ("publish", Access::Neither),
            ("eval", Access::Write),
            ("eval_ro", Access::Read),
            ("fcall", Access::Write),
            ("other", Access::Write),
        ] {
            assert_eq!(spec(name).access, want, "{name}");
        }
        for name in ["eval", "evalsha", "eval_ro", "fcall", "fcall_ro", "other"] {
            assert!(spec(name).flags.contains(CommandFlags::SCRIPT), "{name}");
        }
        assert!(!spec("get").flags.contains(CommandFlags::SCRIPT));
    }
}
