//! Who may enter, as an operator sets it. Nothing here is looked at but when a client comes or proves who it is.

use std::time::Duration;

use crate::users::Users;

/// Who may enter.
#[derive(Clone)]
pub struct Entry {
    /// Whom [`ClientAuth::Proxy`](crate::ClientAuth::Proxy) knows.
    pub users: Users,
    /// Clients from the network are refused where nobody asks them for a password and nothing is encrypted.
    pub protected_mode: bool,
    /// What comes before a client's first request (TLS) may take so long.
    pub handshake_timeout: Duration,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            users: Users::default(),
            protected_mode: true,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}
