//! Which worker serves the next client.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::{Running, Shared};
use crate::net::Accepted;
use crate::roster::Adopt;
use crate::settings::Settings;

impl Shared {
    /// So few clients that one worker serves them all: they share its connections, and are read in the order in which
    /// they send.
    fn are_few(&self, settings: &Settings) -> bool {
        self.clients() < settings.spread_after
    }

    /// Who is to serve the next client: the first worker while there are few; then the one with the fewest, `own` where it
    /// has no more than the others.
    pub(super) fn home_of_next(&self, settings: &Settings, own: usize) -> usize {
        if self.are_few(settings) {
            return 0;
        }
        let loads = || {
            self.loads
                .iter()
                .map(|load| load.load(Ordering::Relaxed))
                .enumerate()
        };
        let least = loads()
            .min_by_key(|(_, load)| *load)
            .map_or(own, |(number, _)| number);
        let load_of = |wanted| loads().nth(wanted).map_or(0, |(_, load)| load);
        if load_of(own) <= load_of(least) {
            own
        } else {
            least
        }
    }
}

impl Running {
    /// Takes clients from the listeners. While there are few, only the worker that serves them does.
    pub(super) fn accepts(&self) -> bool {
        let serves = self.number == 0 || !self.shared.are_few(&self.state.settings.get());
        serves && !self.is_left()
    }

    /// Gives a client to the worker that is to serve it.
    pub(super) fn place(self: &Rc<Self>, accepted: Accepted, listener: usize) {
        let number = self.shared.home_of_next(&self.state.settings.get(), self.number);
        // Counted where it is given away: a burst must not all go to the worker that is slow to take it in.
        self.shared.load(number).fetch_add(1, Ordering::Relaxed);
        if number == self.number {
            return self.admit(accepted, listener);
        }
        let adopt = Adopt {
            accepted,
            listener,
            state: None,
        };
        if let Err(adopt) = self.shared.roster.adopt(number, adopt) {
            self.shared.load(number).fetch_sub(1, Ordering::Relaxed);
            self.load().fetch_add(1, Ordering::Relaxed);
            self.admit(adopt.accepted, adopt.listener);
        }
    }
}
