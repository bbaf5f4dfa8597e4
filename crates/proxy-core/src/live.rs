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
    /// Credentials towards the nodes that earlier reloads have replaced, and by which; the newest last.
    former: RefCell<Vec<(Credentials, Option<Credentials>)>>,
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
        for (old, heir) in replaced(&before, &self.now.borrow()) {
            for (_, later) in &mut *former {
                if later.as_ref() == Some(&old) {
                    later.clone_from(&heir);
                }
            }
            former.push((old, heir));
        }
        former.retain(|(old, heir)| heir.as_ref() != Some(old));
        let surplus = former.len().saturating_sub(limits::FORMER_CREDENTIALS);
        former.drain(..surplus);
    }

    /// Whom a fresh connection under `profile` is to be. Sessions that run as slipring's own user, or as one that the
    /// users' file names, keep the name that they began with; its password may be another one by now.
    pub(crate) fn present(&self, profile: &Profile) -> Profile {
        let former = self.former.borrow();
        let superseded = former
            .iter()
            .find(|(old, _)| profile.credentials.as_ref() == Some(old));
        match superseded {
            Some((_, heir)) if self.client_auth() != ClientAuth::Passthrough => Profile {
                credentials: heir.clone(),
                ..profile.clone()
            },
            _ => profile.clone(),
        }
    }
}

/// Credentials towards the nodes that are others in `now`: slipring's own, and passwords of users. Not those that
/// somebody has still.
fn replaced(before: &Settings, now: &Settings) -> Vec<(Credentials, Option<Credentials>)> {
    let own = before
        .node_credentials
        .iter()
        .map(|old| (old.clone(), now.node_credentials.clone()));
    let rotated = before.entry.users.rotated(&now.entry.users);
    let users = rotated.map(|(_, old, new)| (old.clone(), Some(new.clone())));
    let in_use =
        |old: &Credentials| now.node_credentials.as_ref() == Some(old) || now.entry.users.are_at_nodes(old);
    own.chain(users).filter(|(old, _)| !in_use(old)).collect()
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
    use crate::users::User;

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

    #[test]
    fn sessions_of_a_user_follow_its_password_and_nobody_elses() {
        let at_node = |name: &str, password: &[u8]| Credentials {
            username: Some(name.as_bytes().into()),
            password: Secret::new(password),
        };
        let with = |users: [(&str, Credentials); 2]| {
            let mut settings = settings(ClientAuth::Proxy, b"own");
            for (name, node) in users {
                let user = User {
                    node: Some(node),
                    ..User::default()
                };
                settings.entry.users.add(name.as_bytes(), user);
            }
            settings
        };
        let [one, two, other] = [at_node("x", b"1"), at_node("x", b"2"), at_node("y", b"1")];
        let live = Live::new(with([("a", one.clone()), ("b", one.clone())]));
        let present = |credentials: &Credentials| {
            let profile = Profile {
                credentials: Some(credentials.clone()),
                ..Profile::default()
            };
            live.present(&profile).credentials.unwrap()
        };
        live.replace(with([("a", two.clone()), ("b", one.clone())]));
        assert!(present(&one) == one, "b has it still");
        live.replace(with([("a", two.clone()), ("b", two.clone())]));
        assert!(present(&one) == two);
        live.replace(with([("a", other), ("b", two.clone())]));
        assert!(present(&two) == two, "another user is no other password");
    }
}
