//! How nodes and sentinels are reached, exchangeable while everybody dials.

use std::sync::Arc;

use arc_swap::ArcSwap;
use proxy_core::{TcpDial, TlsDial};
use sentinel_watcher::{Dial, Dialing, HostPort};

use crate::config::Config;

/// The dial of now: a reload puts another one in its place. Connections that stand stay.
pub(crate) struct LiveDial(ArcSwap<Arc<dyn Dial>>);

/// To nodes, and to sentinels.
pub(crate) fn dials(config: &Config) -> [Arc<dyn Dial>; 2] {
    let timeout = config.settings.connect_timeout;
    let tcp: Arc<dyn Dial> = Arc::new(TcpDial { timeout });
    let [node_name, sentinel_name] = config.server_names.clone();
    [
        (&config.tls.node, node_name),
        (&config.tls.sentinel, sentinel_name),
    ]
    .map(|(side, server_name)| match side {
        None => Arc::clone(&tcp),
        Some(config) => Arc::new(TlsDial {
            inner: Arc::clone(&tcp),
            config: Arc::clone(config),
            server_name,
            timeout,
        }),
    })
}

// === impl LiveDial ===

impl LiveDial {
    pub(crate) fn new(dial: Arc<dyn Dial>) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(dial)))
    }

    pub(crate) fn replace(&self, dial: Arc<dyn Dial>) {
        self.0.store(Arc::new(dial));
    }
}

impl Dial for LiveDial {
    fn dial<'a>(&'a self, to: &'a HostPort) -> Dialing<'a> {
        let dial = self.0.load_full();
        Box::pin(async move { dial.dial(to).await })
    }
}
