//! The settings as they are now: a reload replaces them between two batches of a session, never within one.

use std::cell::RefCell;
use std::rc::Rc;

use sentinel_watcher::Credentials;

use crate::backend::profile::Profile;
use crate::limits;
use crate::settings::{ClientAuth, Settings};

/// One worker's settings.
pub(crate) struct Live {
    now: RefCell<Rc<Settings>>,
    /// Who a client is before it has said anything: one, for all clients that have not.
    first_profile: RefCell<Rc<Profile>>,
    /// slipring's own credentials before earlier reloads, the newest last.
    former: RefCell<Vec<Credentials>>,
}

// === impl Live ===

impl Live {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            first_profile: RefCell::new(Rc::new(first_profile(&settings))),
            now: RefCell::new(Rc::new(settings)),
            former: RefCell::default(),
        }
    }

    /// What holds now. Not to be kept: ask again behind whatever waits.
    pub(crate) fn get(&self) -> Rc<Settings> {
        Rc::clone(&self.now.borrow())
    }

    /// Who sessions are: asked for every batch.
    pub(crate) fn client_auth(&self) -> ClientAuth {
        self.now.borrow().client_auth
    }

    /// Who a client is before it has said anything.
    pub(crate) fn first_profile(&self) -> Rc<Profile> {
        Rc::clone(&self.first_profile.borrow())
    }

    /// From here on `settings` hold.
    pub(crate) fn replace(&self, settings: Settings) {
        self.first_profile.replace(Rc::new(first_profile(&settings)));
        let before = std::mem::replace(&mut *self.now.borrow_mut(), Rc::new(settings));
        let former = &mut *self.former.borrow_mut();
        let now = self.get();
        let gone = before.node_credentials.as_ref();
        former.extend(
            gone.filter(|_| before.node_credentials != now.node_credentials)
                .cloned(),
        );
        former.retain(|credentials| Some(credentials) != now.node_credentials.as_ref());
        let surplus = former.len().saturating_sub(limits::FORMER_CREDENTIALS);
        former.drain(..surplus);
    }

    /// Whom a fresh connection under `profile` is to be. Sessions that run as slipring's own user keep the name that
    /// they began with; its password may be another one by now.
    pub(crate) fn present(&self, profile: &Profile) -> Profile {
        let now = self.get();
        let own = now.client_auth != ClientAuth::Passthrough;
        let former = self.former.borrow();
        let superseded = profile
            .credentials
            .as_ref()
            .filter(|known| former.contains(known));
        match superseded {
            Some(_) if own => Profile {
                credentials: now.node_credentials.clone(),
                ..profile.clone()
            },
            _ => profile.clone(),
        }
    }
}

fn first_profile(settings: &Settings) -> Profile {
    let credentials = match settings.client_auth {
        ClientAuth::Passthrough => None,
        ClientAuth::Proxy | ClientAuth::None => settings.node_credentials.clone(),
    };
    Profile {
        credentials,
        ..Profile::default()
    }
}

#[cfg(test)]
mod tests {
    use sentinel_watcher::Secret;

    use super::*;

    fn settings(client_auth: ClientAuth, password: &[u8]) -> Settings {
        Settings {
            client_auth,
            node_credentials: Some(credentials(password)),
            ..Settings::default()
        }
    }

    fn credentials(password: &[u8]) -> Credentials {
        Credentials {
            username: None,
            password: Secret::new(password),
        }
    }

    #[test]
    fn own_sessions_follow_the_password_and_others_keep_theirs() {
        for (auth, follows) in [(ClientAuth::Proxy, true), (ClientAuth::Passthrough, false)] {
            let live = Live::new(settings(auth, b"1"));
            let profile = |password: &[u8]| Profile {
                credentials: Some(credentials(password)),
                db: 3,
                ..Profile::default()
            };
            for password in [b"2", b"3"] {
                live.replace(settings(auth, password));
                let present = live.present(&profile(b"1"));
                let expected = if follows { &password[..] } else { b"1" };
                assert!(present == profile(expected), "{auth:?}");
            }
            assert!(live.present(&profile(b"foreign")) == profile(b"foreign"));
            assert!(live.present(&Profile::default()) == Profile::default());
            live.replace(settings(auth, b"1"));
            assert!(live.present(&profile(b"1")) == profile(b"1"), "back again");
        }
    }
}
