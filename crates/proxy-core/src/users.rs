//! The users that slipring itself knows (`--client-auth proxy`): names, hashes of passwords, and whom the nodes see.
//!
//! The hash is Redis' own, SHA-256 without salt, made for passwords that a machine has drawn. A slow one would let anybody
//! who can send AUTH keep a worker busy.

use std::collections::BTreeMap;
use std::str::FromStr;

use sentinel_watcher::Credentials;
use sha2::{Digest as _, Sha256};

use crate::limits;

/// The users that slipring knows.
#[derive(Clone, Default)]
pub struct Users(BTreeMap<Box<[u8]>, User>);

/// One of them.
#[derive(Clone, Default)]
pub struct User {
    /// Any of these passwords lets it in: a new one beside the old while clients change over.
    pub passwords: Vec<PasswordHash>,
    /// Who it is to the nodes; `None`: slipring's own user.
    pub node: Option<Credentials>,
}

/// The SHA-256 of a password. Written as in Redis' ACL files: `#` and 64 hexadecimal digits.
#[derive(Clone, Copy)]
pub struct PasswordHash([u8; 32]);

// === impl Users ===

impl Users {
    /// Adds a user. False: that name is taken.
    pub fn add(&mut self, name: &[u8], user: User) -> bool {
        self.0.insert(name.into(), user).is_none()
    }

    /// Nobody is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose password at the nodes is another one in `newer`: the name, what it was, and what it is.
    pub fn rotated<'a>(
        &'a self,
        newer: &'a Self,
    ) -> impl Iterator<Item = (&'a [u8], &'a Credentials, &'a Credentials)> {
        self.0.iter().filter_map(|(name, user)| {
            let (old, new) = (user.node.as_ref()?, newer.0.get(name)?.node.as_ref()?);
            let other = old.username == new.username && old.password != new.password;
            other.then_some((&**name, old, new))
        })
    }

    /// Somebody is these to the nodes.
    pub(crate) fn are_at_nodes(&self, credentials: &Credentials) -> bool {
        self.0
            .values()
            .any(|user| user.node.as_ref() == Some(credentials))
    }

    /// A session that came in by this name may stay; without one it did not come in as anybody of these.
    pub(crate) fn keep(&self, alias: Option<&[u8]>) -> bool {
        alias.is_none_or(|name| self.0.contains_key(name))
    }

    /// The user whose name and password these are. Without a name `default` is meant, as on Redis.
    pub(crate) fn find(&self, presented: &Credentials) -> Option<(&[u8], &User)> {
        let password = presented.password.reveal();
        if password.len() > limits::PASSWORD_BYTES {
            return None;
        }
        let hash = PasswordHash::of(password);
        let name = presented.username.as_deref().unwrap_or(b"default");
        let (name, user) = self.0.get_key_value(name)?;
        let right = user.passwords.iter().filter(|known| known.is(&hash)).count() > 0;
        right.then_some((&**name, user))
    }
}

// === impl PasswordHash ===

impl PasswordHash {
    /// That of `password`.
    #[must_use]
    pub fn of(password: &[u8]) -> Self {
        Self(Sha256::digest(password).into())
    }

    /// In time that tells nothing of where two differ.
    fn is(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
    }
}

impl FromStr for PasswordHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str =
            "takes # and the SHA-256 of a password in 64 hexadecimal digits, as ACL LIST shows it";
        let digits = text.strip_prefix('#').ok_or(WRONG)?.as_bytes();
        let (pairs, []) = digits.as_chunks::<2>() else {
            return Err(WRONG);
        };
        let byte = |pair: &[u8; 2]| {
            let text = std::str::from_utf8(pair).ok()?;
            let both = text.bytes().all(|digit| digit.is_ascii_hexdigit());
            both.then(|| u8::from_str_radix(text, 16).ok())?
        };
        let bytes: Vec<u8> = pairs.iter().map(byte).collect::<Option<_>>().ok_or(WRONG)?;
        bytes.try_into().map(Self).map_err(|_| WRONG)
    }
}

#[cfg(test)]
mod tests {
    use sentinel_watcher::Secret;

    use super::*;

    /// As `ACL LIST` shows it of `>secret`.
    const SECRET: &str = "#2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    #[test]
    fn hashes_are_those_of_redis() {
        assert!(PasswordHash::of(b"secret").is(&SECRET.parse().unwrap()));
        assert!(PasswordHash::of(b"secret").is(&SECRET.to_uppercase().parse().unwrap()));
        for wrong in [
            "",
            "#",
            &SECRET[1..],
            &SECRET[..64],
            &format!("{SECRET}00"),
            &SECRET.replace('2', "+"),
        ] {
            assert!(wrong.parse::<PasswordHash>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_user_is_found_by_name_and_any_of_its_passwords() {
        let mut users = Users::default();
        let passwords = vec![PasswordHash::of(b"old"), PasswordHash::of(b"new")];
        assert!(users.add(
            b"ann",
            User {
                passwords,
                node: None
            }
        ));
        assert!(users.add(
            b"default",
            User {
                passwords: vec![PasswordHash::of(b"pw")],
                node: None
            }
        ));
        assert!(users.add(b"locked", User::default()));
        let found = |name: Option<&str>, password: &str| {
            let username = name.map(|name| name.as_bytes().into());
            let presented = Credentials {
                username,
                password: Secret::new(password.as_bytes()),
            };
            users.find(&presented).map(|(name, _)| name.to_vec())
        };
        assert_eq!(found(Some("ann"), "old"), Some(b"ann".to_vec()));
        assert_eq!(found(Some("ann"), "new"), Some(b"ann".to_vec()));
        assert_eq!(found(None, "pw"), Some(b"default".to_vec()));
        for (name, password) in [
            (Some("ann"), "pw"),
            (Some("ann"), ""),
            (Some("bob"), "old"),
            (None, "old"),
            (Some("locked"), ""),
        ] {
            assert_eq!(found(name, password), None, "{name:?} {password}");
        }
        assert_eq!(found(None, &"p".repeat(limits::PASSWORD_BYTES + 1)), None);
    }
}
