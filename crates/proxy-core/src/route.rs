//! Where a command goes. Pure: no await, no lock, no clock, no chance.

use resp_codec::{Access, Class, CommandFlags, CommandSpec};
use sentinel_watcher::{Phase, Shard};

use crate::settings::ReadPolicy;

/// What to do with one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Over the shared connection to the primary.
    Primary,
    /// Over the shared connection to this one of the shard's replicas.
    Replica(usize),
    /// Wait, bounded: the shard cannot take it now.
    Hold,
    /// Answer PING here: the shard cannot, and the question is whether slipring lives.
    Pong,
    /// The session's own affair, one for a lease, or one to be noted first.
    Aside,
}

/// Whether the command only reads: the node says so of it, and it is no script.
#[must_use]
pub(crate) fn is_read(spec: &CommandSpec) -> bool {
    spec.access == Access::Read && !spec.flags.contains(CommandFlags::SCRIPT)
}

/// Whether the command, though the node does not call it a read, changes nothing that other commands see.
#[must_use]
pub(crate) fn is_inert(spec: &CommandSpec) -> bool {
    matches!(
        spec.name,
        "ping" | "echo" | "time" | "info" | "lolwut" | "command"
    )
}

/// Whether the command tells a node what to be: it goes to the primary that is known, though it be none at present.
#[must_use]
pub(crate) fn is_for_the_node(spec: &CommandSpec) -> bool {
    matches!(spec.name, "replicaof" | "slaveof" | "failover")
}

/// Where a command goes. `turn` spreads sessions over replicas; a session keeps its own, so that it sees no older
/// data than before while the topology stays.
#[must_use]
pub(crate) fn plan(shard: &Shard, reads: ReadPolicy, spec: &CommandSpec, turn: u64) -> Plan {
    if spec.class != Class::Data {
        return Plan::Aside;
    }
    match plan_access(shard, reads, is_read(spec), turn) {
        Plan::Hold if spec.name == "ping" => Plan::Pong,
        plan => plan,
    }
}

/// Where a command that reads, or one that may write, goes.
#[must_use]
pub(crate) fn plan_access(shard: &Shard, reads: ReadPolicy, read: bool, turn: u64) -> Plan {
    if !read {
        return if shard.phase == Phase::Serving {
            Plan::Primary
        } else {
            Plan::Hold
        };
    }
    let from_primary = if shard.primary.is_some() {
        Plan::Primary
    } else {
        Plan::Hold
    };
    match reads {
        ReadPolicy::Primary => from_primary,
        ReadPolicy::PreferPrimary if shard.phase == Phase::Serving => from_primary,
        ReadPolicy::Replica => replica(shard, turn).unwrap_or(Plan::Hold),
        ReadPolicy::PreferPrimary | ReadPolicy::PreferReplica => replica(shard, turn).unwrap_or(from_primary),
    }
}

fn replica(shard: &Shard, turn: u64) -> Option<Plan> {
    let usable = shard
        .replicas
        .iter()
        .enumerate()
        .filter(|(_, replica)| replica.usable);
    let many = usable.clone().count() as u64;
    let chosen = usize::try_from(turn.checked_rem(many)?).ok()?;
    usable.map(|(at, _)| Plan::Replica(at)).nth(chosen)
}

#[cfg(test)]
mod tests {
    use sentinel_watcher::{Epoch, HostPort, Primary, Replica};

    use super::*;

    fn shard(phase: Phase, usable: &[bool]) -> Shard {
        let replica = |(at, usable): (usize, &bool)| Replica {
            address: HostPort::new("r", 7000 + at as u16),
            usable: *usable,
            lag_bytes: None,
            priority: 100,
        };
        let primary = Primary {
            address: HostPort::new("p", 6379),
            term: Epoch(1),
        };
        Shard {
            phase,
            primary: (phase != Phase::Down).then_some(primary),
            replicas: usable.iter().enumerate().map(replica).collect(),
            ..Shard::unknown()
        }
    }

    fn check(phase: Phase, usable: &[bool], reads: ReadPolicy, request: &[u8], plan: Plan) {
        let frame = resp_codec::RequestScan::default()
            .advance(request, &resp_codec::RequestLimits::AUTHENTICATED)
            .unwrap()
            .unwrap();
        let command = resp_codec::Command::new(request, frame);
        let found = super::plan(&shard(phase, usable), reads, command.spec(), 7);
        assert_eq!(found, plan, "{phase:?} {usable:?} {reads:?} {request:?}");
    }

    #[test]
    fn writes_go_to_a_serving_primary_or_wait() {
        for request in [
            &b"SET k v\r\n"[..],
            b"FCALL f 0\r\n",
            b"SCRIPT EXISTS s\r\n",
            b"PFSELFTEST\r\n",
        ] {
            for reads in [
                ReadPolicy::Primary,
                ReadPolicy::Replica,
                ReadPolicy::PreferReplica,
            ] {
                check(Phase::Serving, &[true], reads, request, Plan::Primary);
                check(Phase::Moving, &[true], reads, request, Plan::Hold);
                check(Phase::Down, &[true], reads, request, Plan::Hold);
            }
        }
    }

    #[test]
    fn reads_follow_their_policy() {
        let check = |phase, usable: &[bool], reads, plan| check(phase, usable, reads, b"GET k\r\n", plan);
        check(Phase::Serving, &[true], ReadPolicy::Primary, Plan::Primary);
        check(Phase::Moving, &[true], ReadPolicy::Primary, Plan::Primary);
        check(Phase::Down, &[true], ReadPolicy::Primary, Plan::Hold);
        check(Phase::Serving, &[true], ReadPolicy::PreferPrimary, Plan::Primary);
        check(
            Phase::Moving,
            &[true],
            ReadPolicy::PreferPrimary,
            Plan::Replica(0),
        );
        check(Phase::Moving, &[false], ReadPolicy::PreferPrimary, Plan::Primary);
        check(
            Phase::Serving,
            &[false, true],
            ReadPolicy::Replica,
            Plan::Replica(1),
        );
        check(
            Phase::Serving,
            &[true, false, true],
            ReadPolicy::Replica,
            Plan::Replica(2),
        );
        check(Phase::Serving, &[false], ReadPolicy::Replica, Plan::Hold);
        check(Phase::Serving, &[false], ReadPolicy::PreferReplica, Plan::Primary);
        check(Phase::Down, &[], ReadPolicy::PreferReplica, Plan::Hold);
    }

    #[test]
    fn scripts_that_promise_to_read_stay_on_the_primary() {
        check(
            Phase::Serving,
            &[true],
            ReadPolicy::Replica,
            b"FCALL_RO f 0\r\n",
            Plan::Primary,
        );
    }

    #[test]
    fn ping_is_answered_here_only_while_nobody_else_can() {
        check(
            Phase::Serving,
            &[],
            ReadPolicy::Primary,
            b"PING\r\n",
            Plan::Primary,
        );
        check(Phase::Moving, &[], ReadPolicy::Primary, b"PING\r\n", Plan::Pong);
    }
}
