//! One line of a sentinel's event stream, as far as it says something about our master.

use crate::address_map::AddressMap;
use crate::topology::HostPort;

/// What a sentinel says has happened. Addresses are as announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The sentinel has taken part in a newer epoch: the next attempt it opens has this one.
    NewEpoch(u64),
    /// It wants to fail over and asks for votes.
    TryFailover,
    /// It leads a failover, or looks for a replica to promote: the point of no return for a held write.
    Elected,
    /// It has chosen this replica and will tell it to be primary within some 60 ms.
    Selected(HostPort),
    /// It has seen the chosen replica report itself as primary; the epoch is fixed.
    Promoted(HostPort),
    /// It has a new primary, from its own failover or from another sentinel.
    Switched(HostPort),
    /// It gave its own attempt up.
    Aborted(Abort),
    /// Its own attempt is over.
    Ended,
    /// Enough sentinels agree that the primary does not answer.
    ObjectivelyDown,
    /// They no longer do.
    NoLongerDown,
    /// Its clock jumped: it observes, and does not act.
    TiltEntered,
    /// It acts again.
    TiltLeft,
    /// Something else about this master: a reason to ask, and no more.
    Other,
}

/// Why an attempt was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abort {
    /// It did not get the votes; said up to ten seconds late.
    NotElected,
    /// No replica is fit to be promoted.
    NoGoodReplica,
    /// The chosen replica did not become primary in time.
    ReplicaTimeout,
    /// A reason that this version does not know.
    Unknown,
}

/// Whom an event is about: `master <name> <ip> <port> …`, or
/// `slave|sentinel <name> <ip> <port> @ <master> <master-ip> <master-port> …`.
struct Subject {
    address: HostPort,
}

// === impl Event ===

impl Event {
    /// Reads one message of channel `channel`. `None`: another master's, or nothing that matters.
    pub(crate) fn read(channel: &str, payload: &str, master: &str) -> Option<Self> {
        match channel {
            // These name no master: they are the sentinel's own.
            "+new-epoch" => return payload.trim().parse().ok().map(Self::NewEpoch),
            "+tilt" => return Some(Self::TiltEntered),
            "-tilt" => return Some(Self::TiltLeft),
            "+switch-master" => return switched(payload, master),
            _ => {}
        }
        let subject = Subject::read(payload, master)?;
        Some(match channel {
            "+try-failover" => Self::TryFailover,
            "+elected-leader" | "+failover-state-select-slave" => Self::Elected,
            "+selected-slave" | "+failover-state-send-slaveof-noone" | "+failover-state-wait-promotion" => {
                Self::Selected(subject.address)
            }
            "+promoted-slave" => Self::Promoted(subject.address),
            "+failover-end" | "+failover-end-for-timeout" => Self::Ended,
            "-failover-abort-not-elected" => Self::Aborted(Abort::NotElected),
            "-failover-abort-no-good-slave" => Self::Aborted(Abort::NoGoodReplica),
            "-failover-abort-slave-timeout" => Self::Aborted(Abort::ReplicaTimeout),
            "+odown" => Self::ObjectivelyDown,
            "-odown" => Self::NoLongerDown,
            other if other.starts_with("-failover-abort") => Self::Aborted(Abort::Unknown),
            _ => Self::Other,
        })
    }

    /// The same, with addresses as they are reached from here.
    pub(crate) fn reached_through(self, map: &AddressMap) -> Self {
        match self {
            Self::Selected(replica) => Self::Selected(map.reach(replica)),
            Self::Promoted(replica) => Self::Promoted(map.reach(replica)),
            Self::Switched(primary) => Self::Switched(map.reach(primary)),
            other => other,
        }
    }
}

/// `<name> <old-ip> <old-port> <new-ip> <new-port>`
fn switched(payload: &str, master: &str) -> Option<Event> {
    let mut words = payload.split(' ');
    if words.next()? != master {
        return None;
    }
    let (host, port) = (words.nth(2)?, words.next()?);
    Some(Event::Switched(address(host, port)?))
}

// === impl Abort ===

impl Abort {
    /// For a person.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::NotElected => "not elected",
            Self::NoGoodReplica => "no replica is fit",
            Self::ReplicaTimeout => "the replica was not promoted in time",
            Self::Unknown => "unknown",
        }
    }
}

// === impl Subject ===

impl Subject {
    fn read(payload: &str, master: &str) -> Option<Self> {
        let mut words = payload.split(' ');
        let kind = words.next()?;
        let name = words.next()?;
        let address = address(words.next()?, words.next()?)?;
        let of = if kind == "master" {
            name
        } else {
            words.next().filter(|at| *at == "@")?;
            words.next()?
        };
        (of == master).then_some(Self { address })
    }
}

fn address(host: &str, port: &str) -> Option<HostPort> {
    let port = port.parse().ok()?;
    (!host.is_empty()).then(|| HostPort::new(host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lines_that_sentinel_sends() {
        let replica = HostPort::new("127.0.0.1", 6380);
        let of = "slave 127.0.0.1:6380 127.0.0.1 6380 @ mymaster 127.0.0.1 6379";
        let master = "master mymaster 127.0.0.1 6379";
        for (channel, payload, event) in [
            ("+new-epoch", "7", Event::NewEpoch(7)),
            ("+try-failover", master, Event::TryFailover),
            ("+failover-state-select-slave", master, Event::Elected),
            ("+selected-slave", of, Event::Selected(replica.clone())),
            ("+promoted-slave", of, Event::Promoted(replica.clone())),
            (
                "+switch-master",
                "mymaster 127.0.0.1 6379 127.0.0.1 6380",
                Event::Switched(replica),
            ),
            (
                "+odown",
                "master mymaster 127.0.0.1 6379 #quorum 2/2",
                Event::ObjectivelyDown,
            ),
            (
                "-failover-abort-not-elected",
                master,
                Event::Aborted(Abort::NotElected),
            ),
            ("+slave-reconf-done", of, Event::Other),
            ("+tilt", "#tilt mode entered", Event::TiltEntered),
        ] {
            assert_eq!(
                Event::read(channel, payload, "mymaster"),
                Some(event),
                "{channel}"
            );
        }
    }

    #[test]
    fn ignores_other_masters_and_nonsense() {
        for (channel, payload) in [
            ("+odown", "master other 127.0.0.1 6379 #quorum 2/2"),
            (
                "+selected-slave",
                "slave 127.0.0.1:6380 127.0.0.1 6380 @ other 127.0.0.1 6379",
            ),
            ("+selected-slave", "slave mymaster 127.0.0.1 6380"),
            ("+switch-master", "other 127.0.0.1 6379 127.0.0.1 6380"),
            ("+switch-master", "mymaster 127.0.0.1 6379 127.0.0.1 99999"),
            ("+new-epoch", "soon"),
            ("+vote-for-leader", "4197fd56b6a98dcefdd659a63130f5d251a67f16 1"),
            ("+odown", ""),
        ] {
            assert_eq!(
                Event::read(channel, payload, "mymaster"),
                None,
                "{channel} {payload}"
            );
        }
    }
}
