//! What a node says about itself: no primary is published that did not say so to ROLE.

use resp_codec::Value;

use crate::topology::HostPort;

/// The outcome of one probe: `ROLE` and `PING` in one go, since ROLE is answered even while loading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It takes writes. Its replication offset in bytes.
    Primary { offset: u64 },
    /// It replicates.
    Replica(Following),
    /// It is up, and reads its data set from disk.
    Loading,
    /// It answered, but not who it is.
    Refused(Denial),
    /// A fresh connection was refused, or brought no answer in time.
    Unreachable(&'static str),
    /// The probe failed here, not there (no descriptors, no name resolution): it says nothing of the node.
    Blind(String),
}

/// Whom a replica follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Following {
    /// Its primary, in the words it was given.
    pub(crate) of: HostPort,
    /// The replication link is up and in sync.
    pub(crate) linked: bool,
    /// Bytes of the replication stream that it has.
    pub(crate) offset: u64,
}

/// Why a server does not answer our question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denial {
    /// NOAUTH: it wants a password and we have none.
    PasswordMissing,
    /// WRONGPASS or the older words for it.
    PasswordWrong,
    /// NOPERM: the user may not ask this.
    NotPermitted,
    /// Anything else, in its own words.
    Other(String),
}

// === impl Verdict ===

impl Verdict {
    /// From the reply to AUTH, where one was sent, and those to ROLE and PING.
    pub(crate) fn read(auth: Option<&Value>, answers: &[Value]) -> Self {
        let [role, ping] = answers else {
            return Self::Refused(Denial::Other("too few answers".to_owned()));
        };
        if let Some(error) = role.as_error() {
            return match (error.starts_with("LOADING"), auth.and_then(Value::as_error)) {
                (true, _) => Self::Loading,
                // Why we are nobody is more telling than that we are.
                (false, Some(refused)) => Self::Refused(Denial::read(refused)),
                (false, None) => Self::Refused(Denial::read(error)),
            };
        }
        if ping.as_error().is_some_and(|error| error.starts_with("LOADING")) {
            return Self::Loading;
        }
        read_role(role).unwrap_or_else(|| Self::Refused(Denial::Other("an unknown role".to_owned())))
    }
}

/// `master <offset> <replicas>` or `slave <host> <port> <state> <offset>`
fn read_role(role: &Value) -> Option<Verdict> {
    let field = |at: usize| role.as_array()?.get(at);
    // -1 until the first synchronisation.
    let offset = |at| Some(u64::try_from(field(at)?.as_int()?).unwrap_or(0));
    match field(0)?.as_str()? {
        "master" => Some(Verdict::Primary { offset: offset(1)? }),
        "slave" => {
            let port = u16::try_from(field(2)?.as_int()?).ok()?;
            Some(Verdict::Replica(Following {
                of: HostPort::new(field(1)?.as_str()?, port),
                linked: field(3)?.as_str()? == "connected",
                offset: offset(4)?,
            }))
        }
        _ => None,
    }
}

// === impl Denial ===

impl Denial {
    /// From an error reply, without its `-`.
    pub(crate) fn read(error: &str) -> Self {
        match error.split(' ').next() {
            Some("NOAUTH") => Self::PasswordMissing,
            Some("WRONGPASS") => Self::PasswordWrong,
            Some("NOPERM") => Self::NotPermitted,
            _ if error.contains("invalid password") || error.contains("without any password") => {
                Self::PasswordWrong
            }
            _ => Self::Other(error.chars().take(200).collect()),
        }
    }

    /// For an operator: what `server` says and which flag of `prefix` (`--` or `--sentinel-`) mends it.
    pub(crate) fn explain(&self, server: &str, prefix: &str) -> String {
        match self {
            Self::PasswordMissing => format!("{server} wants a password: set {prefix}password-file"),
            Self::PasswordWrong => {
                format!("{server} refuses the password: check {prefix}username and {prefix}password-file")
            }
            Self::NotPermitted => format!("{server} does not permit the user of {prefix}username to ask"),
            Self::Other(words) => format!("{server} answers: {words}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_and_ping_make_a_verdict() {
        let text = |text: &str| Value::Text(text.as_bytes().to_vec());
        let error = |text: &str| Value::Error(text.to_owned());
        let master = || Value::Array(vec![text("master"), Value::Integer(7), Value::Array(Vec::new())]);
        let slave = |state, offset| {
            let port = Value::Integer(6379);
            Value::Array(vec![
                text("slave"),
                text("h"),
                port,
                text(state),
                Value::Integer(offset),
            ])
        };
        let replica = |linked, offset| {
            let of = HostPort::new("h", 6379);
            Verdict::Replica(Following { of, linked, offset })
        };
        let noauth = || error("NOAUTH Authentication required.");
        let odd = || Verdict::Refused(Denial::Other("an unknown role".to_owned()));
        for (auth, role, ping, verdict) in [
            (None, master(), text("PONG"), Verdict::Primary { offset: 7 }),
            (None, master(), error("LOADING wait"), Verdict::Loading),
            // A script runs: the node is what it is.
            (
                None,
                master(),
                error("BUSY script"),
                Verdict::Primary { offset: 7 },
            ),
            (None, slave("connected", 5), error("MASTERDOWN"), replica(true, 5)),
            (None, slave("connect", -1), text("PONG"), replica(false, 0)),
            (
                None,
                noauth(),
                noauth(),
                Verdict::Refused(Denial::PasswordMissing),
            ),
            (
                Some(error("WRONGPASS no")),
                noauth(),
                noauth(),
                Verdict::Refused(Denial::PasswordWrong),
            ),
            (
                Some(error("ERR AUTH called without any password configured")),
                master(),
                text("PONG"),
                Verdict::Primary { offset: 7 },
            ),
            (None, Value::Array(vec![text("sentinel")]), text("PONG"), odd()),
            (None, Value::Null, text("PONG"), odd()),
            (
                None,
                slave("connected", 5)
                    .as_array()
                    .map_or(Value::Null, |parts| Value::Array(parts[..2].to_vec())),
                text("PONG"),
                odd(),
            ),
        ] {
            assert_eq!(
                Verdict::read(auth.as_ref(), &[role.clone(), ping]),
                verdict,
                "{role:?}"
            );
        }
    }

    #[test]
    fn denials_name_the_flag_that_mends_them() {
        let told = |error, prefix| Denial::read(error).explain("10.0.0.1:6379", prefix);
        assert_eq!(
            told("NOAUTH Authentication required.", "--"),
            "10.0.0.1:6379 wants a password: set --password-file"
        );
        assert!(
            told("WRONGPASS invalid username-password pair", "--sentinel-")
                .contains("--sentinel-password-file")
        );
        assert!(told("ERR invalid password", "--").contains("refuses the password"));
        assert_eq!(told("ERR odd", "--"), "10.0.0.1:6379 answers: ERR odd");
    }
}
