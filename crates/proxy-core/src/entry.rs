//! Who may enter, as an operator sets it. Nothing here is looked at but when a client comes or proves who it is.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::users::Users;

/// Who may enter.
#[derive(Clone)]
pub struct Entry {
    /// Whom [`ClientAuth::Proxy`](crate::ClientAuth::Proxy) knows.
    pub users: Users,
    /// Whence clients may come; empty: from everywhere. Unix sockets are not concerned.
    pub allow: Vec<IpNet>,
    /// How many clients one address may have.
    pub max_clients_per_ip: Option<usize>,
    /// How many clients of one address may come in a second.
    pub accept_rate_per_ip: Option<usize>,
    /// Clients from the network are refused where nobody asks them for a password and nothing is encrypted.
    pub protected_mode: bool,
    /// What comes before a client's first request (PROXY header, TLS) may take so long.
    pub handshake_timeout: Duration,
    /// After so much silence the kernel asks whether a client lives; zero: never.
    pub tcp_keepalive: Duration,
}

// === impl Entry ===

impl Entry {
    /// Clients may come from `address`.
    pub(crate) fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.allow.is_empty() || self.allow.iter().any(|network| network.contains(&address))
    }
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            users: Users::default(),
            allow: Vec::new(),
            max_clients_per_ip: None,
            accept_rate_per_ip: None,
            protected_mode: true,
            handshake_timeout: Duration::from_secs(10),
            tcp_keepalive: Duration::from_secs(300),
        }
    }
}
