//! Development only: real Redis, Valkey and Sentinel processes on free loopback ports, the proxy before them,
//! a blunt client that reports every byte, and a load whose acknowledged writes are checked afterwards.
//!
//! Everything here blocks and runs on plain threads. Nothing that it starts outlives the process that asked for
//! it, however that process ends: see [`process`].

pub mod client;
pub mod collector;
pub mod load;
pub mod memory;
pub mod netns;
pub mod port;
pub mod process;
pub mod proxy;
pub mod reply;
pub mod runtime;
pub mod scenario;
pub mod servers;
pub mod sim;
pub mod wait;

pub use client::{Broken, Client};
pub use collector::Collector;
pub use load::Load;
pub use proxy::Proxy;
pub use reply::Reply;
pub use runtime::Runtime;
pub use servers::{Cluster, Flavor, Login, Node, Sentinel};

/// Runs one story against every server flavor: a module of that name with the tests `redis` and `valkey`.
///
/// The body takes the [`Flavor`] and returns `anyhow::Result<()>`. A missing server fails the test under CI;
/// elsewhere the test says that it did not run and passes.
///
/// ```
/// testkit::on_each_server! {
///     fn answers_ping(flavor: testkit::Flavor) -> anyhow::Result<()> {
///         let node = testkit::Node::builder(flavor.server()?).start()?;
///         assert_eq!(node.client()?.command(&["PING"])?.text(), Some("PONG"));
///         Ok(())
///     }
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! on_each_server {
    ($($(#[$meta:meta])* fn $name:ident($flavor:ident: $type:ty) -> $result:ty $body:block)+) => {$(
        $(#[$meta])*
        mod $name {
            use super::*;

            fn story($flavor: $type) -> $result $body

            #[test]
            fn redis() -> $result {
                if $crate::Flavor::Redis.runs_here() { story($crate::Flavor::Redis) } else { Ok(()) }
            }

            #[test]
            fn valkey() -> $result {
                if $crate::Flavor::Valkey.runs_here() { story($crate::Flavor::Valkey) } else { Ok(()) }
            }
        }
    )+};
}
