//! Who is primary, now?
//!
//! Watches the sentinels of one master and publishes a [`Topology`] each time the answer changes.

mod address_map;
mod backoff;
mod config;
mod credentials;
mod dial;
mod driver;
mod health;
mod hint;
mod limits;
mod link;
mod machine;
mod sabotage;
mod signal;
mod steering;
mod task;
mod topology;
mod verify;

pub use address_map::{AddressMap, AddressMapEntry, AddressMapError};
pub use config::{Lag, LagError, WatcherConfig};
pub use credentials::{Credentials, Secret};
pub use dial::{BoxIo, Dial, Dialing, Io};
pub use driver::{Watcher, watcher};
pub use health::{
    Failover, FailoverCounts, FailoverEnd, FailoverKind, Health, HealthFeed, Promotion, ReplicaHealth,
    SentinelHealth, SentinelState,
};
pub use hint::{Hint, HintReceiver, HintSender, Suspicion, hints};
pub use link::{Link, Manners, certificate_remedy};
#[cfg(feature = "sabotage")]
pub use sabotage::sabotage;
pub use sabotage::{Sabotage, is_sabotaged};
pub use signal::{Signal, SignalFeed};
pub use steering::{HandedOver, Handover, QuietPlace, Steering, SteeringReceiver, steering};
pub use topology::{
    Epoch, HostPort, HostPortError, Phase, Primary, Replica, Shard, Topology, TopologyFeed, TopologyPublisher,
};
