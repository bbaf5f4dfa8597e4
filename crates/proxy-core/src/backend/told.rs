//! What clients tell a node, and slipring must know of: REPLICAOF, and whom to let in.

use bytes::Bytes;
use resp_codec::Command;

use super::access;

/// What a command has told a node, or all those of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// What it is to be.
    pub(crate) role: Option<Role>,
    /// It may ask something else of newcomers.
    pub(crate) access: bool,
}

/// What REPLICAOF told the node to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// To follow another node.
    Follow,
    /// `NO ONE`.
    Lead,
}

// === impl Told ===

impl Told {
    /// What `command` tells a node.
    pub(crate) fn by(command: &Command<Bytes>) -> Self {
        Self {
            role: Role::by(command),
            access: access::is_changed_by(command),
        }
    }

    /// And then `later`.
    pub(crate) fn and(self, later: Self) -> Self {
        Self {
            role: later.role.or(self.role),
            access: self.access || later.access,
        }
    }
}

// === impl Role ===

impl Role {
    fn by(command: &Command<Bytes>) -> Option<Self> {
        if !matches!(command.spec().name, "replicaof" | "slaveof") || command.argc() != 3 {
            return None;
        }
        let no_one = command
            .args()
            .skip(1)
            .zip([&b"no"[..], b"one"])
            .all(|(arg, word)| arg.eq_ignore_ascii_case(word));
        Some(if no_one { Self::Lead } else { Self::Follow })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, role: Option<Role>, access: bool) {
        let bytes = Bytes::from(format!("{line}\r\n"));
        let frame = resp_codec::RequestScan::default()
            .advance(&bytes, &resp_codec::RequestLimits::AUTHENTICATED)
            .unwrap()
            .unwrap();
        let told = Told::by(&Command::new(bytes, frame));
        assert_eq!(told, Told { role, access }, "{line}");
    }

    #[test]
    fn what_is_told() {
        check("REPLICAOF no ONE", Some(Role::Lead), false);
        check("slaveof host 6379", Some(Role::Follow), false);
        check("config set RequirePass x", None, true);
        check("config set maxmemory 1 requirepass x", None, true);
        check("config set maxmemory requirepass", None, false);
        check("config get requirepass", None, false);
        check("acl setuser default on >x", None, true);
        check("acl setuser other on >x", None, false);
        check("acl load", None, true);
        check("get requirepass", None, false);
    }
}
