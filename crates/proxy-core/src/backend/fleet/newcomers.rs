//! What a master's nodes grant to whoever has not authenticated, and how that is noticed when it changes.

use std::rc::Rc;

use tokio::time::Instant;

use super::{Fleet, key_of, ping};
use crate::backend::profile::Profile;
use crate::backend::told::Told;
use crate::limits;

/// What the primary grants to whoever has not authenticated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Grants {
    /// No primary has been asked yet.
    #[default]
    Unknown,
    Nothing,
    Something,
}

// === impl Fleet ===

impl Fleet {
    /// What a newcomer that has not authenticated can do here.
    pub(crate) fn grants(self: &Rc<Self>) -> Grants {
        self.nobody();
        self.grants.get()
    }

    /// Who a newcomer is that has not authenticated. It shares no connection with those to whom something else was granted.
    pub(crate) fn nobody(self: &Rc<Self>) -> Rc<Profile> {
        self.entered.set(true);
        let era = self.parts.access.era();
        if self.nobody.borrow().era != era {
            let profile = Profile {
                era,
                ..Profile::default()
            };
            self.nobody.replace(Rc::new(profile));
            self.grants.set(Grants::Unknown);
            crate::task::spawn(Rc::clone(self).learn_auth());
        }
        Rc::clone(&self.nobody.borrow())
    }

    /// Whether all that `profile` can do is to authenticate. Who came in another era is told by the node.
    pub(crate) fn grants_nothing_to(&self, profile: &Profile) -> bool {
        profile.credentials.is_none()
            && self.grants.get() == Grants::Nothing
            && profile.era == self.nobody.borrow().era
    }

    /// The primary has done what it was `told`.
    pub(crate) fn heed(&self, told: Told) {
        if let Some(role) = told.role
            && let Some(primary) = &self.topology().shard(0).primary
        {
            self.parts.by_hand.note(&key_of(primary), role);
        }
        if told.access {
            self.parts.access.end(self.parts.access.era());
        }
    }

    /// What the primary grants to nobody is another thing than it was, as `profile` has just learned.
    pub(crate) fn end_era(&self, profile: &Profile) {
        self.parts.access.end(profile.era);
    }

    /// Somebody may have changed, past slipring, what is granted to nobody. That all is granted again concerns those who
    /// find that it is refused.
    pub(super) fn look_at_access(self: &Rc<Self>, now: Instant) {
        let since = self.looked_at.get().map(|at| now.duration_since(at));
        let due = since.is_none_or(|since| since.as_secs() >= limits::ACCESS_LOOK_SECS);
        let open = self.grants.get() == Grants::Something && self.is_serving();
        if open && due && self.entered.take() {
            self.looked_at.set(Some(now));
            crate::task::spawn(Rc::clone(self).look_again());
        }
    }

    async fn look_again(self: Rc<Self>) {
        let (nobody, backend) = (self.nobody(), self.primary(&Profile::default()));
        self.entered.set(false);
        let Some(backend) = backend else { return };
        if ping(backend.link())
            .await
            .is_some_and(|reply| asks_for_password(&reply))
        {
            self.end_era(&nobody);
        }
    }

    /// Finds out what the primary grants to nobody.
    pub(super) async fn learn_auth(self: Rc<Self>) {
        let Some(backend) = self.primary(&Profile::default()) else {
            return;
        };
        let reply = loop {
            match ping(backend.link()).await {
                Some(reply) => break Some(reply),
                None if self.grants.get() != Grants::Unknown || !self.is_primary(&backend.link().node) => {
                    break None;
                }
                None => tokio::time::sleep(self.parts.settings.get().node_timeout).await,
            }
        };
        if let Some(reply) = reply {
            self.looked_at.set(Some(Instant::now()));
            self.grants.set(if asks_for_password(&reply) {
                Grants::Nothing
            } else {
                Grants::Something
            });
        }
        if self.grants.get() == Grants::Something {
            // Before a client wants a list: it is not to be found among what clients have asked. Who must be somebody to
            // be told it asks then.
            let _ = backend.client_line().await;
        }
    }
}

/// The node asks for a password first.
pub(crate) fn asks_for_password(reply: &[u8]) -> bool {
    reply.starts_with(b"-NOAUTH")
}
