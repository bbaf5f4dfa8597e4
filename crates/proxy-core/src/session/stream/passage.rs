//! A subscriber that leaves for another process, or comes from there: what it is subscribed to goes along, and is
//! subscribed to again before anything else.

use bytes::Bytes;
use sentinel_watcher::HostPort;

use super::state::Stream;
use super::transaction::Transaction;
use crate::backend::NodeKey;
use crate::metrics::LeaseReason;
use crate::passage::Subscriptions;
use crate::session::{Close, Session, own};

impl Session {
    /// Leaves, if nothing of `stream` is under way. Comes back if it cannot: the session stays.
    pub(super) async fn leave_streaming(&mut self, stream: &Stream, node: &NodeKey) -> Result<(), Close> {
        match stream.subscriptions(node) {
            Some(subscriptions) => self.leave_with(Some(subscriptions)).await,
            None => {
                self.client.stay();
                Ok(())
            }
        }
    }

    /// Subscribes to all that the session was subscribed to in another process.
    pub(in crate::session) async fn stream_again(
        &mut self,
        subscriptions: Subscriptions,
    ) -> Result<(), Close> {
        let mut stream = Stream::new(LeaseReason::Subscription, Transaction::default());
        stream.resume(subscriptions);
        for order in stream.standing.orders().into_iter().flatten() {
            stream.show(&own::whole(order.clone()), &mut self.client.face_mut());
        }
        stream.show_counts(&mut self.client.face_mut());
        self.stream_on(stream, None).await
    }
}

// === impl Stream ===

impl Stream {
    /// What the next process has to make again. `None`: it cannot, or something is under way.
    fn subscriptions(&self, node: &NodeKey) -> Option<Subscriptions> {
        if !self.is_at_rest() {
            return None;
        }
        let orders = self.standing.orders()?.cloned().collect();
        let [channels, patterns, shards] = self.roll.names();
        Some(Subscriptions {
            channels,
            patterns,
            shards,
            orders,
            lasting: self.standing.is_lasting(),
            node: node.address.to_string(),
        })
    }

    fn resume(&mut self, subscriptions: Subscriptions) {
        let Subscriptions {
            channels,
            patterns,
            shards,
            orders,
            lasting,
            node,
        } = subscriptions;
        self.roll.resume([channels, patterns, shards]);
        for order in orders.into_iter().filter(is_whole) {
            self.standing.note(&own::whole(order));
        }
        if lasting {
            self.standing.last();
        }
        // What it was told there may be stale by now.
        self.former = node.parse::<HostPort>().ok();
    }
}

/// It comes from outside: it may be anything.
fn is_whole(order: &Bytes) -> bool {
    let found = resp_codec::RequestScan::default().advance(order, &resp_codec::RequestLimits::AUTHENTICATED);
    matches!(found, Ok(Some(frame)) if frame.len == order.len())
}
