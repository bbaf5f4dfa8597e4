//! What the first bytes of a reply say.

/// The error replies by which a node refuses, told apart by their first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// A write was sent to a replica.
    Readonly,
    /// The dataset is being loaded.
    Loading,
    /// A replica has lost its primary and must not serve stale data.
    MasterDown,
    /// Fewer replicas than `min-replicas-to-write`.
    NoReplicas,
    /// The slot lives elsewhere.
    Moved,
    /// The key may live elsewhere, this once.
    Ask,
    /// Keys of one command are on both sides of a migration.
    TryAgain,
    /// The cluster does not serve the slot.
    ClusterDown,
    /// A blocked command was set free, by CLIENT UNBLOCK or because the node became a replica.
    Unblocked,
    /// A script runs too long.
    Busy,
    /// Not authenticated.
    NoAuth,
    /// The user may not do this.
    NoPerm,
    /// No script of this digest.
    NoScript,
    /// Wrong user or password.
    WrongPass,
    /// The transaction was thrown away.
    ExecAbort,
}

/// The refusal that a reply frame starts with; `None` for any other reply. Needs the frame's first 16 bytes.
#[inline]
pub fn refusal(reply: &[u8]) -> Option<Refusal> {
    let [b'-', text @ ..] = reply else { return None };
    let end = text
        .iter()
        .position(|byte| matches!(byte, b' ' | b'\r' | b'\n'))
        .unwrap_or(text.len());
    Some(match text.get(..end)? {
        b"READONLY" => Refusal::Readonly,
        b"LOADING" => Refusal::Loading,
        b"MASTERDOWN" => Refusal::MasterDown,
        b"NOREPLICAS" => Refusal::NoReplicas,
        b"MOVED" => Refusal::Moved,
        b"ASK" => Refusal::Ask,
        b"TRYAGAIN" => Refusal::TryAgain,
        b"CLUSTERDOWN" => Refusal::ClusterDown,
        b"UNBLOCKED" => Refusal::Unblocked,
        b"BUSY" => Refusal::Busy,
        b"NOAUTH" => Refusal::NoAuth,
        b"NOPERM" => Refusal::NoPerm,
        b"NOSCRIPT" => Refusal::NoScript,
        b"WRONGPASS" => Refusal::WrongPass,
        b"EXECABORT" => Refusal::ExecAbort,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_the_whole_first_word() {
        for (reply, want) in [
            (
                "-READONLY You can't write against a read only replica.\r\n",
                Some(Refusal::Readonly),
            ),
            (
                "-LOADING Redis is loading the dataset in memory\r\n",
                Some(Refusal::Loading),
            ),
            (
                "-MASTERDOWN Link with MASTER is down\r\n",
                Some(Refusal::MasterDown),
            ),
            (
                "-NOREPLICAS Not enough good replicas to write.\r\n",
                Some(Refusal::NoReplicas),
            ),
            ("-MOVED 3999 127.0.0.1:6381\r\n", Some(Refusal::Moved)),
            ("-ASK 3999 127.0.0.1:6381\r\n", Some(Refusal::Ask)),
            (
                "-UNBLOCKED force unblock from blocking operation\r\n",
                Some(Refusal::Unblocked),
            ),
            ("-EXECABORT Transaction discarded\r\n", Some(Refusal::ExecAbort)),
            ("-BUSY\r\n", Some(Refusal::Busy)),
            ("-BUSYGROUP Consumer Group name already exists\r\n", None),
            ("-BUSYKEY Target key name already exists.\r\n", None),
            ("-ERR unknown command\r\n", None),
            ("+READONLY\r\n", None),
            ("$8\r\nREADONLY\r\n", None),
            ("-\r\n", None),
            ("", None),
        ] {
            assert_eq!(refusal(reply.as_bytes()), want, "{reply:?}");
        }
    }
}
