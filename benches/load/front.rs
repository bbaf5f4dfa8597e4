//! What clients talk to: slipring, its peers, the floor, or Redis itself.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use testkit::Client;
use testkit::port::Port;
use testkit::process::Process;
use testkit::wait::{STEP_TIMEOUT, wait_for};

use super::lab::{self, KEY, Lab};
use super::peer::Peer;
use super::workload::Transport;

/// A front that serves.
pub(super) struct Front {
    pub(super) peer: Peer,
    pub(super) address: SocketAddr,
    /// The process whose cost is the front's.
    pub(super) pid: u32,
    started: Option<Started>,
}

/// How a front is set up.
#[derive(Clone, Copy)]
pub(super) struct Setup {
    /// Bytes of the value that the benchmark's key has.
    pub(super) value_bytes: usize,
    pub(super) transport: Transport,
    /// What slipring is given besides what all workloads give it.
    pub(super) slipring_arg: Option<&'static str>,
}

/// What ends with a front that is not Redis itself.
struct Started {
    process: Process,
    _ports: Vec<Port>,
}

// === impl Setup ===

impl Setup {
    /// As it is by default, with such a value.
    pub(super) const fn plain(value_bytes: usize) -> Self {
        Self {
            value_bytes,
            transport: Transport::Plain,
            slipring_arg: None,
        }
    }
}

// === impl Front ===

impl Front {
    /// Starts the front and waits until a GET through it is answered with the value of the benchmark's key, over TLS until
    /// somebody is there.
    ///
    /// # Errors
    /// When it does not serve, with the tail of its log.
    pub(super) fn start(lab: &Lab, peer: Peer, setup: Setup) -> Result<Self> {
        let front = match peer {
            Peer::Direct => Self {
                peer,
                address: lab.redis.address(),
                pid: lab.redis_pid,
                started: None,
            },
            _ => Self::start_process(lab, peer, setup)?,
        };
        let serves = wait_for(&format!("{peer} to serve"), STEP_TIMEOUT, || {
            let mut client = Client::connect(front.address)?;
            if setup.transport == Transport::Tls {
                return Ok(());
            }
            let reply = client.command(&["GET", KEY])?;
            match reply.text() {
                Some(_) if reply.error().is_none() => Ok(()),
                _ => bail!("it answers {reply:?}"),
            }
        });
        serves.with_context(|| {
            front
                .started
                .as_ref()
                .map(|started| started.process.log_tail())
                .unwrap_or_default()
        })?;
        Ok(front)
    }

    fn start_process(lab: &Lab, peer: Peer, setup: Setup) -> Result<Self> {
        let (port, statistics) = (Port::free()?, Port::free()?);
        let certificate = match setup.transport {
            Transport::Plain => None,
            Transport::Tls => Some(lab.certificate()?),
        };
        let certificate = certificate.as_deref();
        let (program, args) = command(lab, peer, setup, &port, &statistics, certificate)?;
        let log = lab.folder.path().join(format!("{peer}.log"));
        let process = Process::start(&peer.to_string(), &program, args, log)?;
        let pid = process.pid().with_context(|| process.log_tail())?;
        let address = port.address();
        Ok(Self {
            peer,
            address,
            pid,
            started: Some(Started {
                process,
                _ports: vec![port, statistics],
            }),
        })
    }
}

/// The program and its arguments; `statistics` is for a second port, where the front wants one; `certificate` and its key are
/// in one file.
fn command(
    lab: &Lab,
    peer: Peer,
    setup: Setup,
    port: &Port,
    statistics: &Port,
    certificate: Option<&Path>,
) -> Result<(PathBuf, Vec<String>)> {
    let (listen, redis) = (port.address().to_string(), lab.redis.address().to_string());
    let folder = lab.folder.path();
    let (program, args) = match peer {
        Peer::Direct => unreachable!("Redis runs already"),
        Peer::Floor => (
            lab.floor.clone(),
            format!("--listen {listen} --value-bytes {}", setup.value_bytes),
        ),
        Peer::Slipring | Peer::Traced => {
            let (sentinel, metrics) = (lab.sentinel.address(), statistics.address());
            let listen = match certificate.map(Path::display) {
                None => listen,
                Some(file) => {
                    format!("tls:{listen} --listen-tls-cert-file {file} --listen-tls-key-file {file}")
                }
            };
            let addresses = format!("--listen {listen} --sentinels {sentinel} --metrics-listen {metrics}");
            (
                lab.slipring.clone(),
                format!("{addresses} --workers 1 --log-level warn"),
            )
        }
        Peer::Haproxy => {
            let file = folder.join("haproxy.cfg");
            let listen = match certificate.map(Path::display) {
                None => listen,
                Some(file) => format!("{listen} ssl crt {file}"),
            };
            fs::write(&file, haproxy_config(&listen, &redis, lab::clients_possible()?))?;
            ("haproxy".into(), format!("-db -f {}", file.display()))
        }
        Peer::Nutcracker => {
            let file = folder.join("nutcracker.yml");
            fs::write(&file, nutcracker_config(&listen, &redis))?;
            let statistics = statistics.address();
            (
                "nutcracker".into(),
                format!(
                    "-c {} -a {} -s {}",
                    file.display(),
                    statistics.ip(),
                    statistics.port()
                ),
            )
        }
        Peer::Envoy => {
            let file = folder.join("envoy.yaml");
            fs::write(&file, envoy_config(port.address(), lab.redis.address()))?;
            // It alone of its kind here: no shared memory with a successor.
            let options = "--concurrency 1 --disable-hot-restart --log-level warn";
            ("envoy".into(), format!("-c {} {options}", file.display()))
        }
    };
    let mut args: Vec<String> = args.split(' ').map(str::to_owned).collect();
    args.extend(further_args(lab, peer, setup));
    Ok((program, args))
}

/// What slipring is given besides its addresses.
fn further_args(lab: &Lab, peer: Peer, setup: Setup) -> Vec<String> {
    let mut asked_for = lab.slipring_args.clone();
    asked_for.extend(setup.slipring_arg.map(str::to_owned));
    match peer {
        Peer::Slipring => asked_for,
        Peer::Traced => {
            let spans = format!("--otlp-endpoint={}", lab.collector.url());
            let watched = ["--slowlog-threshold=10ms", "--sample-commands=1000", &spans];
            [asked_for, watched.map(str::to_owned).into()].concat()
        }
        _ => Vec::new(),
    }
}

fn haproxy_config(listen: &str, redis: &str, clients: usize) -> String {
    format!(
        "global\n  nbthread 1\n  maxconn {clients}\n\
         defaults\n  mode tcp\n  maxconn {clients}\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         listen redis\n  bind {listen}\n  server redis {redis}\n"
    )
}

fn nutcracker_config(listen: &str, redis: &str) -> String {
    format!(
        "redis:\n  listen: {listen}\n  redis: true\n  hash: fnv1a_64\n  distribution: ketama\n  backlog: 4096\n\
         \x20 auto_eject_hosts: false\n  servers:\n   - {redis}:1\n"
    )
}

fn envoy_config(listen: SocketAddr, redis: SocketAddr) -> String {
    let address = |of: SocketAddr| {
        format!(
            "{{socket_address: {{address: {}, port_value: {}}}}}",
            of.ip(),
            of.port()
        )
    };
    let (listen, redis) = (address(listen), address(redis));
    format!(
        "static_resources:\n\
         \x20 listeners:\n\
         \x20 - address: {listen}\n\
         \x20   filter_chains:\n\
         \x20   - filters:\n\
         \x20     - name: envoy.filters.network.redis_proxy\n\
         \x20       typed_config:\n\
         \x20         \"@type\": type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy\n\
         \x20         stat_prefix: redis\n\
         \x20         settings: {{op_timeout: 10s}}\n\
         \x20         prefix_routes: {{catch_all_route: {{cluster: redis}}}}\n\
         \x20 clusters:\n\
         \x20 - name: redis\n\
         \x20   connect_timeout: 1s\n\
         \x20   type: STATIC\n\
         \x20   load_assignment:\n\
         \x20     cluster_name: redis\n\
         \x20     endpoints: [{{lb_endpoints: [{{endpoint: {{address: {redis}}}}}]}}]\n"
    )
}
