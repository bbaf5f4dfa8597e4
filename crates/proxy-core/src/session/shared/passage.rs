//! A subscriber of a hub that leaves for another process, or comes from there and sits down at a hub again.

use super::Guest;
use crate::hub::Kind;
use crate::metrics::CloseReason;
use crate::passage::Subscriptions;
use crate::session::{Close, Session};

impl Session {
    /// Leaves for another process, with all that it is subscribed to. Comes back if it cannot: the session stays.
    pub(super) async fn leave_sharing(&mut self, guest: &Guest) -> Result<(), Close> {
        let [channels, patterns, shards] =
            [Kind::Channel, Kind::Pattern, Kind::Shard].map(|kind| guest.names_of(kind));
        let topology = self.door.fleet.topology().clone();
        let primary = topology.shard(0).primary.as_ref();
        let subscriptions = Subscriptions {
            channels,
            patterns,
            shards,
            orders: Vec::new(),
            lasting: false,
            node: primary
                .map(|primary| primary.address.to_string())
                .unwrap_or_default(),
        };
        self.leave_with(Some(subscriptions)).await
    }

    /// Whether that is all that a session from another process is at, and there is a hub for it here.
    pub(in crate::session) fn may_share_again(&self, subscriptions: &Subscriptions) -> bool {
        let Subscriptions {
            channels,
            patterns,
            shards,
            ..
        } = subscriptions;
        let any = [channels, patterns, shards].iter().any(|names| !names.is_empty());
        let alone = any && subscriptions.orders.is_empty() && !subscriptions.lasting;
        alone && self.door.worker.settings.get().share_subscriptions
    }

    /// Serves a subscriber from another process: it is subscribed again before anything else.
    pub(in crate::session) async fn share_again(
        &mut self,
        subscriptions: Subscriptions,
    ) -> Result<(), Close> {
        let mut guest = self.enter_hub();
        let Subscriptions {
            channels,
            patterns,
            shards,
            ..
        } = subscriptions;
        let kinds = [
            (Kind::Channel, channels),
            (Kind::Pattern, patterns),
            (Kind::Shard, shards),
        ];
        let names = kinds
            .into_iter()
            .flat_map(|(kind, names)| names.into_iter().map(move |name| (kind, name)));
        guest.names = names.collect();
        // Each at once: the node is asked for all of them in one go.
        let words: Vec<_> = guest
            .names
            .iter()
            .filter_map(|name| guest.hub.join(name, self.id, &guest.ear))
            .collect();
        for word in words {
            if self.refused(&guest.hub, word).await?.is_some() {
                return Err(Close(CloseReason::Node));
            }
        }
        guest.names.iter().for_each(|name| guest.hub.hear(name, self.id));
        guest.show(&mut self.client.face_mut());
        self.share_on(guest, None).await
    }
}
