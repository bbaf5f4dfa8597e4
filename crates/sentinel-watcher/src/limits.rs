//! Every bound and every pace of the watcher, in one place.

use std::time::Duration;

/// Sentinels watched at once; further ones that are announced are left alone.
pub(crate) const SENTINELS: usize = 32;
/// Nodes probed at once; further replicas that are announced are left alone.
pub(crate) const NODES: usize = 128;
/// Bytes of one reply of a sentinel or of ROLE; more breaks the connection.
pub(crate) const REPLY_BYTES: usize = 4 << 20;
/// Failovers that ended and are told of: so many may end between two looks at the health.
pub(crate) const PAST_FAILOVERS: usize = 16;
/// Observations on their way to the machine; a task with one more waits.
pub(crate) const INPUTS: usize = 256;

/// How often a sentinel is polled while all is calm: events tell the rest.
pub(crate) const POLL_CALM: Duration = Duration::from_secs(1);
/// How often while a switch is going on, or events of a sentinel do not reach us.
pub(crate) const POLL_MOVING: Duration = Duration::from_millis(100);
/// How often a node is asked for its ROLE while all is calm.
pub(crate) const PROBE_CALM: Duration = Duration::from_secs(1);
/// How often a node is asked that is no usable replica now, and may be one any moment.
pub(crate) const PROBE_REPLICA: Duration = Duration::from_millis(250);
/// How often a primary is asked that is held, loading, or not yet known.
pub(crate) const PROBE_HELD: Duration = Duration::from_millis(50);
/// How often a candidate is asked: the delay of the release after the promotion.
pub(crate) const PROBE_CANDIDATE: Duration = Duration::from_millis(10);
/// Least pause between two probes of a node, whatever is asked.
pub(crate) const PROBE_GAP: Duration = Duration::from_millis(2);
/// Silence on a subscription after which a PING finds out whether it is alive.
pub(crate) const SUBSCRIPTION_SILENCE: Duration = Duration::from_secs(2);

/// How long `+odown` alone holds: past it, with no leader elected and the primary answering, clients go on.
pub(crate) const ELECTION_PATIENCE: Duration = Duration::from_secs(2);
/// How long the attempt of a lost sentinel counts as open: its order to the candidate may be on the way.
pub(crate) const LOST_ATTEMPT_PATIENCE: Duration = Duration::from_secs(1);
/// How long the very first choice waits for the slower sentinels, lest it follow a stale one.
pub(crate) const FIRST_CHOICE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a majority must contradict a higher epoch before it wins. Sentinels learn of a regular switch
/// within their hello period of 2 s, and turn a replica back that calls itself primary after 8 s.
pub(crate) const DISSENT_PATIENCE: Duration = Duration::from_secs(10);

/// How far a replica may be behind when a handover begins to hold writes.
pub(crate) const HANDOVER_NEAR_BYTES: u64 = 1 << 20;
/// How long a handover waits for a sentinel to notice replicas' priorities: it asks for them every ten seconds.
pub(crate) const HANDOVER_PRIORITIES: Duration = Duration::from_secs(15);
/// How long a handover waits, once the new primary serves, for sentinels to agree on it.
pub(crate) const HANDOVER_CONFIRMATION: Duration = Duration::from_secs(5);

/// First pause before a sentinel is dialled again.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// Longest pause before a sentinel is dialled again.
pub(crate) const BACKOFF_LONGEST: Duration = Duration::from_secs(2);
