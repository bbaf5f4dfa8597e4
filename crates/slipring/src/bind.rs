//! The sockets that clients and operators come in by: inherited from a predecessor or from the service manager, or bound anew.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use proxy_core::{Address, Listen, ProxiedListen, TcpListen, TlsListen, UnixListen};

use crate::config::Config;
use crate::config::doors::Door;
use crate::upgrade::{Inherited, Predecessor};

/// All that listens.
pub(crate) struct Bound {
    /// One a door, in their order.
    pub(crate) doors: Vec<Box<dyn Listen>>,
    pub(crate) admin: Option<Box<dyn Listen>>,
    /// Lets another process take over.
    pub(crate) predecessor: Option<Predecessor>,
}

/// Binds what `config` asks for and `inherited` does not have; what nobody asks for is closed. Runs within a runtime.
///
/// # Errors
/// An address that cannot be bound.
pub(crate) fn bind(config: &Config, mut inherited: Inherited) -> anyhow::Result<Bound> {
    let doors = config
        .doors
        .iter()
        .map(|door| bind_door(door, config, &mut inherited))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let admin = config
        .admin
        .map(|address| bind_admin(address, &mut inherited))
        .transpose()?;
    let predecessor = offer(config, &doors, admin.as_deref(), &mut inherited)?;
    if inherited.left() > 0 {
        tracing::warn!(
            sockets = inherited.left(),
            "no flag asks for some listening sockets: they are closed"
        );
    }
    Ok(Bound {
        doors,
        admin,
        predecessor,
    })
}

fn bind_door(door: &Door, config: &Config, inherited: &mut Inherited) -> anyhow::Result<Box<dyn Listen>> {
    let plain: Box<dyn Listen> = match &door.address {
        address if let Some(listen) = inherited.take(address)? => listen,
        Address::Inet(address) => Box::new(listen(door.flag, *address)?),
        Address::Unix(path) => Box::new(UnixListen::bind(path).with_context(|| {
            let path = path.display();
            format!(
                "{} unix:{path}: cannot listen there; take a folder that slipring may write to",
                door.flag
            )
        })?),
    };
    let plain = if door.proxied {
        Box::new(ProxiedListen::new(plain)) as Box<dyn Listen>
    } else {
        plain
    };
    Ok(match &config.tls.listen {
        Some(tls) if door.tls => Box::new(TlsListen::new(plain, Arc::clone(tls))),
        _ => plain,
    })
}

fn bind_admin(address: SocketAddr, inherited: &mut Inherited) -> anyhow::Result<Box<dyn Listen>> {
    if let Some(listen) = inherited.take(&address.into())? {
        return Ok(listen);
    }
    Ok(Box::new(listen("--metrics-listen", address)?))
}

fn listen(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListen> {
    use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    TcpListen::bind(address).map_err(|error| {
        let remedy = match error.kind() {
            AddrInUse => "something listens there already: stop it, or choose another port",
            AddrNotAvailable => "this machine has no such address: choose one of its own, or * for all",
            PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE: grant it, or choose a higher port"
            }
            _ => "choose another address",
        };
        anyhow::anyhow!("{flag} {address}: {error}; {remedy}")
    })
}

/// Where a successor finds this process, with all that listens.
fn offer(
    config: &Config,
    bound: &[Box<dyn Listen>],
    admin: Option<&dyn Listen>,
    inherited: &mut Inherited,
) -> anyhow::Result<Option<Predecessor>> {
    let upgrade = &config.upgrade;
    let Some(path) = &upgrade.socket else {
        return Ok(None);
    };
    let listening = bound.iter().map(|door| &**door).chain(admin);
    Predecessor::new(path, inherited, listening, upgrade.linger).map(Some)
}
