//! The observing half: what one node has said about itself.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Lag;
use crate::topology::HostPort;
use crate::verify::{Following, Verdict};

/// One node, primary or replica, under the address at which it is reached.
pub(crate) struct Node {
    /// How often it is asked; `None` before the first time.
    pub(crate) pace: Option<Duration>,
    /// Its last word, and when it came.
    verdict: Option<(Verdict, Instant)>,
    /// Its last replication offset as primary, and when it said so; kept while it is away, to see whether it comes back
    /// behind.
    offset: Option<(u64, Instant)>,
    /// The reign in which it began to say `master`, without having said anything else since.
    primary_in: Option<u64>,
    /// Whom it follows, and the reign in which it first said so.
    follows: Option<(HostPort, u64)>,
    /// The reign in which its link was last seen in sync.
    linked_in: Option<u64>,
    /// Bytes behind the primary when last asked.
    lag_bytes: Option<u64>,
    /// When it last had all that the primary had.
    caught_up: Option<Instant>,
    /// The primary's offset at some time, which the replica has not reached yet.
    mark: Option<(Instant, u64)>,
}

/// The primary's last replication offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OffsetAt {
    pub(crate) bytes: u64,
    /// When it said so.
    at: Instant,
    /// Until when it is known to have said nothing else: now, as long as it answers.
    until: Instant,
}

// === impl Node ===

impl Node {
    pub(crate) const fn new() -> Self {
        Self {
            pace: None,
            verdict: None,
            offset: None,
            primary_in: None,
            follows: None,
            linked_in: None,
            lag_bytes: None,
            caught_up: None,
            mark: None,
        }
    }

    pub(crate) fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref().map(|(verdict, _)| verdict)
    }

    /// It said `master` after `since`.
    pub(crate) fn is_primary_since(&self, since: Instant) -> bool {
        matches!(&self.verdict, Some((Verdict::Primary { .. }, at)) if *at > since)
    }

    /// It says `master` since the present reign, and not only still since an earlier one: it was promoted.
    pub(crate) fn was_promoted_in(&self, reign: u64) -> bool {
        self.primary_in == Some(reign)
    }

    /// It said anything at `since` or later.
    pub(crate) fn heard_since(&self, since: Instant) -> bool {
        self.verdict.as_ref().is_some_and(|(_, at)| *at >= since)
    }

    pub(crate) fn offset(&self, now: Instant) -> Option<OffsetAt> {
        let (bytes, at) = self.offset?;
        let answers = matches!(self.verdict(), Some(Verdict::Primary { .. }));
        let until = if answers { now } else { at };
        Some(OffsetAt { bytes, at, until })
    }

    /// Takes one verdict. `of` in it is rewritten already; `reign` counts the primaries published so far.
    pub(crate) fn hear(&mut self, verdict: Verdict, primary: Option<OffsetAt>, reign: u64, now: Instant) {
        match &verdict {
            Verdict::Primary { offset } => {
                self.offset = Some((*offset, now));
                self.primary_in.get_or_insert(reign);
            }
            Verdict::Replica(following) => {
                self.offset = None;
                self.primary_in = None;
                self.follow(following, primary, reign);
            }
            Verdict::Loading | Verdict::Refused(_) | Verdict::Unreachable(_) | Verdict::Blind(_) => {}
        }
        self.verdict = Some((verdict, now));
    }

    /// It may be read while `primary` reigns. With the link down it may only while `moving`: its data is then
    /// as fresh as any, within `limit`.
    pub(crate) fn readable(
        &self,
        primary: &HostPort,
        reign: Reign<'_>,
        limit: Option<Lag>,
        now: Instant,
    ) -> bool {
        let Some((Verdict::Replica(following), _)) = &self.verdict else {
            return false;
        };
        let follows = following.of == *primary || self.follows_by_another_name(following, &reign);
        let linked = following.linked || (reign.moving && self.linked_in == Some(reign.number));
        follows && linked && self.within(limit, now)
    }

    /// Bytes behind the primary, where it replicates and that is known.
    pub(crate) fn lag_bytes(&self) -> Option<u64> {
        matches!(self.verdict(), Some(Verdict::Replica(_)))
            .then_some(self.lag_bytes)
            .flatten()
    }

    /// The name of its primary is nobody's that we know, and was given to it in this reign: an alias.
    fn follows_by_another_name(&self, following: &Following, reign: &Reign<'_>) -> bool {
        let named_now = self
            .follows
            .as_ref()
            .is_some_and(|(_, named_in)| *named_in == reign.number);
        named_now && !(reign.is_known_node)(&following.of)
    }

    fn within(&self, limit: Option<Lag>, now: Instant) -> bool {
        match limit {
            None => true,
            Some(Lag::Bytes(most)) => self.lag_bytes.is_some_and(|behind| behind <= most),
            Some(Lag::Time(most)) => self.caught_up.is_some_and(|at| now - at <= most),
        }
    }

    fn follow(&mut self, following: &Following, primary: Option<OffsetAt>, reign: u64) {
        if self.follows.as_ref().is_none_or(|(of, _)| *of != following.of) {
            self.follows = Some((following.of.clone(), reign));
        }
        if !following.linked {
            return;
        }
        self.linked_in = Some(reign);
        let Some(target) = primary else { return };
        self.lag_bytes = Some(target.bytes.saturating_sub(following.offset));
        if following.offset >= target.bytes {
            self.caught_up = Some(target.until);
            self.mark = None;
            return;
        }
        let (marked_at, marked) = *self.mark.get_or_insert((target.at, target.bytes));
        if following.offset >= marked {
            self.caught_up = Some(marked_at);
            self.mark = Some((target.at, target.bytes));
        }
    }
}

/// Under whom a replica is judged.
pub(crate) struct Reign<'a> {
    /// Count of primaries published so far.
    pub(crate) number: u64,
    /// The primary is held.
    pub(crate) moving: bool,
    /// Whether an address is a node of ours.
    pub(crate) is_known_node: &'a dyn Fn(&HostPort) -> bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> HostPort {
        HostPort::new("h", port)
    }

    fn replica(of: u16, linked: bool, offset: u64) -> Verdict {
        Verdict::Replica(Following {
            of: at(of),
            linked,
            offset,
        })
    }

    /// What a primary said at `at` that answers until `until`.
    fn offset(bytes: u64, at: Instant, until: Instant) -> Option<OffsetAt> {
        Some(OffsetAt { bytes, at, until })
    }

    fn readable(node: &Node, number: u64, moving: bool, limit: Option<Lag>, now: Instant) -> bool {
        let known = |address: &HostPort| address.port < 10;
        node.readable(
            &at(1),
            Reign {
                number,
                moving,
                is_known_node: &known,
            },
            limit,
            now,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_of_another_primary_is_not_read() {
        let (now, mut node) = (Instant::now(), Node::new());
        assert!(!readable(&node, 1, false, None, now));
        for (of, linked, expected) in [
            (1, true, true),
            (2, true, false),
            (1, false, false),
            (77, true, true),
        ] {
            node.hear(replica(of, linked, 0), None, 1, now);
            assert_eq!(readable(&node, 1, false, None, now), expected, "{of} {linked}");
        }
        // The alias of an earlier primary stays a stranger under the next one.
        assert!(!readable(&node, 2, false, None, now));
        node.hear(Verdict::Loading, None, 1, now);
        assert!(!readable(&node, 1, false, None, now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_link_is_forgiven_only_while_moving() {
        let (now, mut node) = (Instant::now(), Node::new());
        node.hear(replica(1, false, 0), None, 1, now);
        assert!(!readable(&node, 1, true, None, now), "never in sync");
        node.hear(replica(1, true, 0), offset(0, now, now), 1, now);
        node.hear(replica(1, false, 0), None, 1, now);
        assert!(readable(&node, 1, true, None, now));
        let later = now + Duration::from_secs(3);
        assert!(!readable(
            &node,
            1,
            true,
            Some(Lag::Time(Duration::from_secs(2))),
            later
        ));
        assert!(!readable(&node, 1, false, None, now));
    }

    #[tokio::test(start_paused = true)]
    async fn lag_counts_from_when_the_replica_last_had_everything() {
        let (start, mut node) = (Instant::now(), Node::new());
        let second = |n| start + Duration::from_secs(n);
        let limit = Some(Lag::Time(Duration::from_secs(2)));
        let said = |bytes, n| offset(bytes, second(n), second(n));
        node.hear(replica(1, true, 100), said(100, 0), 1, second(0));
        // Steadily behind by less than two seconds of a stream that never stops.
        for n in 1..20 {
            node.hear(replica(1, true, n * 100), said(100 + n * 100, n), 1, second(n));
            assert!(readable(&node, 1, false, limit, second(n)), "{n}");
            assert_eq!(node.lag_bytes(), Some(100));
        }
        assert!(readable(&node, 1, false, Some(Lag::Bytes(100)), second(19)));
        assert!(!readable(&node, 1, false, Some(Lag::Bytes(99)), second(19)));
        // Stuck.
        node.hear(replica(1, true, 1900), said(9000, 23), 1, second(23));
        assert!(!readable(&node, 1, false, limit, second(23)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_primary_that_answers_no_more_vouches_for_nobody() {
        let (start, mut node, mut primary) = (Instant::now(), Node::new(), Node::new());
        let second = |n| start + Duration::from_secs(n);
        let limit = Some(Lag::Time(Duration::from_secs(2)));
        let mut answers = |verdict, n| {
            let before = primary.offset(second(n));
            primary.hear(verdict, before, 1, second(n));
            node.hear(replica(1, true, 100), primary.offset(second(n)), 1, second(n));
            readable(&node, 1, false, limit, second(n))
        };
        assert!(answers(Verdict::Primary { offset: 100 }, 0));
        let silent = || Verdict::Unreachable("timed out");
        assert!(answers(silent(), 2), "the limit is not passed yet");
        assert!(!answers(silent(), 3), "it may have written what has not arrived");
        assert!(answers(Verdict::Primary { offset: 100 }, 60));
    }
}
