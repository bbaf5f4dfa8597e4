//! Who is primary, now?
//!
//! Watches the sentinels of one master and publishes a [`Topology`] each time the answer changes.

mod credentials;
mod dial;
mod hint;
mod topology;

pub use credentials::{Credentials, Secret};
pub use dial::{BoxIo, Dial, Dialing, Io};
pub use hint::{Hint, HintReceiver, HintSender, Suspicion, hints};
pub use topology::{
    Epoch, HostPort, HostPortError, Phase, Primary, Replica, Shard, Topology, TopologyFeed, TopologyPublisher,
};
