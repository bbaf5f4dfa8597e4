//! Passwords that cannot be shown.

use std::sync::Arc;

/// A secret. It has no `Debug` and no `Display`, so it cannot reach a log, a metric or an error by accident.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Secret(Arc<[u8]>);

/// Who to be: an ACL user (none: the default user, as in `AUTH password`) and its password.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Credentials {
    /// ACL user name; `None` sends the one-argument form of AUTH, which Redis before 6 knows too.
    pub username: Option<Arc<[u8]>>,
    /// The password.
    pub password: Secret,
}

impl Secret {
    /// Wraps `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(Arc::from(bytes))
    }

    /// The secret itself, for the wire alone.
    #[must_use]
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}
