//! Where clients connect, and whose data they find there.

use std::collections::BTreeSet;

use proxy_core::{Address, ReadPolicy};

use super::error::ConfigError;
use crate::cli::{Cli, ListenSpec, Transport};

/// One address that clients connect to, before it is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Door {
    /// The flag that asked for it, for messages.
    pub(crate) flag: &'static str,
    /// Where to listen; port 0 takes a free one.
    pub(crate) address: Address,
    /// Its clients speak TLS.
    pub(crate) tls: bool,
    /// They come through a load balancer.
    pub(crate) proxied: bool,
    /// Index into the masters.
    pub(crate) upstream: usize,
    /// Which node answers reads.
    pub(crate) reads: ReadPolicy,
}

/// Each listener's master found, no address twice, no master unreachable.
pub(super) fn doors(cli: &Cli) -> Result<Vec<Door>, ConfigError> {
    let masters = &cli.masters.master;
    for (index, master) in masters.iter().enumerate() {
        if masters.iter().take(index).any(|earlier| earlier == master) {
            return Err(ConfigError::new(
                "--master",
                master,
                "named twice; name each master once",
            ));
        }
    }
    let primary = cli
        .clients
        .listen
        .iter()
        .map(|spec| ("--listen", spec, cli.nodes.read_policy));
    let replica = cli.clients.replica_listen.iter();
    let replica = replica.map(|spec| ("--replica-listen", spec, ReadPolicy::PreferReplica));
    let mut doors = Vec::new();
    let mut taken = BTreeSet::new();
    for (flag, spec, reads) in primary.chain(replica) {
        let chosen = spec.address.inet().is_none_or(|address| address.port() != 0);
        if chosen && !taken.insert(spec.address.to_string()) {
            return Err(ConfigError::new(
                flag,
                &spec.address,
                "asked for twice; give each listener its own port",
            ));
        }
        let upstream = upstream(flag, spec, masters)?;
        doors.push(Door {
            flag,
            address: spec.address.clone(),
            tls: match spec.transport {
                Transport::Tls => true,
                Transport::Plain => false,
                Transport::AsFlag => cli.tls.listen_tls,
            },
            proxied: cli.clients.proxy_protocol && spec.address.inet().is_some(),
            upstream,
            reads,
        });
    }
    for (index, master) in masters.iter().enumerate() {
        if !doors.iter().any(|door| door.upstream == index) {
            let remedy = format!("no listener leads to it; add --listen IP:PORT={master}");
            return Err(ConfigError::new("--master", master, remedy));
        }
    }
    Ok(doors)
}

fn upstream(flag: &'static str, spec: &ListenSpec, masters: &[String]) -> Result<usize, ConfigError> {
    let Some(wanted) = &spec.master else {
        if masters.len() == 1 {
            return Ok(0);
        }
        let remedy = format!(
            "there are {} masters, so each listener names its own: {flag} {}=MASTER, of {}",
            masters.len(),
            spec.address,
            masters.join(", ")
        );
        return Err(ConfigError::new(flag, &spec.address, remedy));
    };
    masters.iter().position(|master| master == wanted).ok_or_else(|| {
        let remedy = format!(
            "no --master is called {wanted}; it takes one of: {}",
            masters.join(", ")
        );
        ConfigError::new(flag, format!("{}={wanted}", spec.address), remedy)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::read;

    #[test]
    fn several_masters_each_have_their_doors() {
        let config = read(
            "--master a --master b --listen 127.0.0.1:1=b --listen 127.0.0.1:2=a --replica-listen 127.0.0.1:3=a \
             --read-policy prefer-primary",
        )
        .unwrap();
        let doors: Vec<_> = config
            .doors
            .iter()
            .map(|door| (door.address.inet().unwrap().port(), door.upstream, door.reads))
            .collect();
        assert_eq!(
            doors,
            [
                (1, 1, ReadPolicy::PreferPrimary),
                (2, 0, ReadPolicy::PreferPrimary),
                (3, 0, ReadPolicy::PreferReplica)
            ]
        );
    }
}
