//! What slipring says of itself: whose fault, was it sent, and the words a client reads.
//!
//! The texts are a contract (docs/SEMANTICS.md); a snapshot test holds them.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use resp_codec::write;
use sentinel_watcher::{HostPort, Sabotage, is_sabotaged};

/// How far a command got before something went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// None of its bytes were written.
    Never,
    /// Bytes were written and no answer came: it may or may not have been executed.
    Maybe,
    /// The node's own entry check refused it: it was not executed.
    Refused,
}

/// May a command that got as far as `sent` be sent again? The one rule of retries.
///
/// `read`: the command's COMMAND flags say `readonly` and it is no script. `resends`: how often a lost connection
/// already made it travel again.
#[must_use]
pub(crate) fn may_resend(sent: Sent, read: bool, resends: u8) -> bool {
    match sent {
        Sent::Never | Sent::Refused => true,
        Sent::Maybe if is_sabotaged(Sabotage::ResendSent) => true,
        Sent::Maybe => read && resends < crate::limits::READ_RESENDS,
    }
}

/// An error that slipring itself answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Error<'a> {
    /// A command was sent to the node and its connection was lost before the answer.
    UnknownOutcome(&'a HostPort),
    /// The connection was lost while a request was being sent that is too large to be kept: its end was not sent.
    CutShort(&'a HostPort),
    /// No primary came within the hold time.
    NoPrimary {
        /// The master's name.
        master: &'a str,
        /// The hold time.
        waited: Duration,
    },
    /// More waits for a primary already than `--failover-hold-bytes` allows.
    HoldFull,
    /// Memory is short, and the command is a large one.
    Memory,
    /// Memory is short, and nobody new is let in.
    NoMemory,
    /// No lease within `--lease-wait-timeout`.
    NoLease {
        /// What the lease was for.
        budget: &'static str,
    },
    /// An open MULTI could not be carried to the new primary.
    TransactionLost,
    /// slipring refused a command of an open MULTI.
    TransactionRefused,
    /// `--deny-commands` names it.
    Denied(&'a str),
    /// `--max-clients` are served already.
    MaxClients,
    /// `--allow-cidr` does not name its address.
    Address,
    /// Its address has `--max-clients-per-ip` already.
    PerIp,
    /// Clients of its address come faster than `--accept-rate-per-ip`.
    Rate,
    /// It came from the network where nobody is asked for a password.
    Protected,
    /// The client has not presented its password to slipring (`--client-auth proxy`).
    NoAuth,
    /// The password presented to slipring is wrong.
    WrongPass,
    /// AUTH although slipring runs sessions as its own user (`--client-auth none`).
    NoPasswordNeeded,
    /// What slipring cannot do on a shared connection.
    Unsupported(&'static str),
}

impl fmt::Display for Error<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownOutcome(node) => write!(
                f,
                "UNKNOWN outcome: the connection to {node} was lost after the command was sent; \
                 it may or may not have been executed"
            ),
            Self::CutShort(node) => write!(
                f,
                "MASTERDOWN the connection to {node} was lost while the command was being sent, which is too large to be \
                 sent again; it was not executed"
            ),
            Self::NoPrimary { master, waited } => {
                write!(f, "MASTERDOWN no primary for \"{master}\" within {waited:?}; the command was not executed")
            }
            Self::HoldFull => f.write_str(
                "MASTERDOWN too much waits for a primary (--failover-hold-bytes, --max-memory); the command was not \
                 executed",
            ),
            Self::Memory => f.write_str(
                "OOM slipring is short of memory (--max-memory) and takes no large command; it was not executed",
            ),
            Self::NoMemory => f.write_str("ERR slipring is short of memory (--max-memory) and lets nobody in"),
            Self::NoLease { budget } => {
                write!(f, "ERR no free connection for {budget} (--pool-size, --lease-wait-timeout); the command was not executed")
            }
            Self::TransactionLost => {
                f.write_str("EXECABORT Transaction discarded because the primary changed and it was too large to move")
            }
            Self::TransactionRefused => f.write_str("EXECABORT Transaction discarded because of previous errors."),
            Self::Denied(name) => {
                write!(f, "NOPERM this proxy refuses the '{name}' command (--deny-commands)")
            }
            Self::MaxClients => f.write_str("ERR max number of clients reached"),
            Self::Address => f.write_str("DENIED clients may not connect from this address (--allow-cidr)"),
            Self::PerIp => f.write_str("ERR max number of clients of this address reached (--max-clients-per-ip)"),
            Self::Rate => f.write_str("ERR clients of this address connect too fast (--accept-rate-per-ip)"),
            Self::Protected => f.write_str(
                "DENIED Redis is running in protected mode because protected mode is enabled and no password is set \
                 for the default user. In this mode connections are only accepted from the loopback interface. If you \
                 want to connect from external computers to Redis you may adopt one of the following solutions: \
                 1) Set a password, for the default user of the Redis nodes or for slipring itself \
                 (--client-password-file, --users-file). 2) Have clients speak TLS (--listen tls:ADDRESS). \
                 3) Start slipring with --protected-mode no, however MAKE SURE it is not publicly accessible from \
                 internet if you do so. NOTE: You only need to do one of the above things in order for slipring to \
                 start accepting connections from the outside.",
            ),
            Self::NoAuth => f.write_str("NOAUTH Authentication required."),
            Self::WrongPass => f.write_str("WRONGPASS invalid username-password pair or user is disabled."),
            Self::NoPasswordNeeded => f.write_str(
                "ERR AUTH <password> called without any password configured for the default user. \
                 Are you sure your configuration is correct?",
            ),
            Self::Unsupported(what) => write!(f, "ERR slipring does not support {what}"),
        }
    }
}

impl Error<'_> {
    /// The error as a RESP reply.
    #[must_use]
    pub(crate) fn reply(&self) -> Bytes {
        let mut out = BytesMut::new();
        write::error(&mut out, &self.to_string());
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reads_travel_twice_after_they_were_sent() {
        assert!(may_resend(Sent::Never, false, 9));
        assert!(may_resend(Sent::Refused, false, 9));
        assert!(may_resend(Sent::Maybe, true, 0));
        assert!(!may_resend(Sent::Maybe, true, 1));
        assert!(!may_resend(Sent::Maybe, false, 0));
    }

    #[test]
    fn words_are_a_contract() {
        let node = HostPort::new("10.0.0.1", 6379);
        let check = |error: Error<'_>, text: &str| assert_eq!(error.reply(), format!("-{text}\r\n"));
        check(
            Error::UnknownOutcome(&node),
            "UNKNOWN outcome: the connection to 10.0.0.1:6379 was lost after the command was sent; it may or may \
             not have been executed",
        );
        check(
            Error::CutShort(&node),
            "MASTERDOWN the connection to 10.0.0.1:6379 was lost while the command was being sent, which is too large \
             to be sent again; it was not executed",
        );
        check(
            Error::NoPrimary {
                master: "m",
                waited: Duration::from_secs(15),
            },
            "MASTERDOWN no primary for \"m\" within 15s; the command was not executed",
        );
        check(
            Error::Denied("flushall"),
            "NOPERM this proxy refuses the 'flushall' command (--deny-commands)",
        );
        check(
            Error::Memory,
            "OOM slipring is short of memory (--max-memory) and takes no large command; it was not executed",
        );
        check(Error::NoAuth, "NOAUTH Authentication required.");
    }
}
