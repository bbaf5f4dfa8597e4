//! From the command line to what the watcher and the data plane take: the checks that concern more than one flag.

pub(crate) mod doors;
mod entry;
pub(crate) mod error;
mod secrets;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use proxy_core::{ClientAuth, Denied, Entry, ReadPolicy, Settings, Watch};
use sentinel_watcher::{Credentials, WatcherConfig};
use tokio_rustls::rustls::pki_types::ServerName;
use tracing::level_filters::LevelFilter;

use crate::cli::{AdminSpec, Choice, Cli, Collector, Switch, TlsArgs};
use crate::facts::Facts;
use crate::tls::{ClientCertificates, Side, Tls, TlsFiles};
use doors::{Door, doors};
use error::ConfigError;
use secrets::credentials;

/// Everything that the runtime needs. Holds secrets, so it has no `Debug`.
pub(crate) struct Config {
    /// The data plane's settings.
    pub(crate) settings: Settings,
    /// One a master; the index is the upstream's.
    pub(crate) masters: Vec<WatcherConfig>,
    /// Where clients connect.
    pub(crate) doors: Vec<Door>,
    /// Where the admin endpoint answers; `None`: nowhere.
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) collector: Option<Collector>,
    /// Certificates.
    pub(crate) tls: Tls,
    /// Names that the certificates of nodes and of sentinels must bear, where it is not the host's.
    pub(crate) server_names: [Option<ServerName<'static>>; 2],
    /// Which node answers reads on `--listen`.
    pub(crate) read_policy: ReadPolicy,
    pub(crate) drain_delay: Duration,
    pub(crate) log_level: LevelFilter,
    /// What every flag is set to.
    pub(crate) facts: Facts,
    /// Whom to take over from, and who may take over.
    pub(crate) upgrade: Upgrade,
}

/// One slipring in the place of another.
pub(crate) struct Upgrade {
    /// Where the predecessor is found.
    pub(crate) from: Option<PathBuf>,
    /// Where a successor finds this one.
    pub(crate) socket: Option<PathBuf>,
    /// How long who cannot move is served then.
    pub(crate) linger: Duration,
}

// === impl Config ===

impl Config {
    /// Checks `cli` as a whole and reads the files that hold secrets and certificates.
    pub(crate) fn new(mut cli: Cli) -> Result<Self, ConfigError> {
        let file = cli.file.take();
        Self::checked(cli).map_err(|mut error| {
            error.place = file.and_then(|file| file.place_of(&error.flag));
            error
        })
    }

    fn checked(cli: Cli) -> Result<Self, ConfigError> {
        let doors = doors(&cli)?;
        let (client_auth, entry) = entry::read(&cli.clients, &doors)?;
        let node_credentials = credentials(
            ["--username", "--password-file"],
            cli.nodes.username.as_deref(),
            cli.nodes.password.as_ref(),
            cli.nodes.password_file.as_deref(),
        )?;
        let sentinel_credentials = credentials(
            ["--sentinel-username", "--sentinel-password-file"],
            cli.masters.sentinel_username.as_deref(),
            cli.masters.sentinel_password.as_ref(),
            cli.masters.sentinel_password_file.as_deref(),
        )?;
        let watcher = |master: &String| WatcherConfig {
            master: master.clone(),
            sentinels: cli.masters.sentinels.clone(),
            sentinel_credentials: sentinel_credentials.clone(),
            node_credentials: node_credentials.clone(),
            address_map: cli.masters.address_map.iter().cloned().collect(),
            max_replica_lag: cli.nodes.max_replica_lag,
            connect_timeout: cli.nodes.connect_timeout,
            node_timeout: cli.nodes.node_timeout,
        };
        let masters = cli.masters.master.iter().map(watcher).collect();
        let admin = match cli.operation.metrics_listen {
            AdminSpec::Off => None,
            AdminSpec::At(address) => Some(address),
        };
        let tls = tls(&cli.tls, doors.iter().any(|door| door.tls))?;
        let settings = settings(&cli, client_auth, entry, node_credentials);
        Ok(Self {
            settings,
            masters,
            doors,
            admin,
            collector: cli.operation.otlp_endpoint,
            tls,
            read_policy: cli.nodes.read_policy,
            drain_delay: cli.operation.drain_delay,
            log_level: cli.operation.log_level,
            facts: cli.facts,
            server_names: [cli.tls.node_tls_server_name, cli.tls.sentinel_tls_server_name],
            upgrade: Upgrade {
                from: cli.operation.upgrade_from,
                socket: cli.operation.upgrade_socket,
                linger: cli.operation.upgrade_linger,
            },
        })
    }
}

fn settings(
    cli: &Cli,
    client_auth: ClientAuth,
    entry: Entry,
    node_credentials: Option<Credentials>,
) -> Settings {
    Settings {
        max_clients: cli.clients.max_clients,
        max_memory: cli.clients.max_memory,
        pool_size: cli.nodes.pool_size.unwrap_or(cli.clients.max_clients),
        mux_connections: cli.nodes.mux_connections,
        share_subscriptions: cli.nodes.share_subscriptions,
        connect_timeout: cli.nodes.connect_timeout,
        node_timeout: cli.nodes.node_timeout,
        failover_hold_timeout: match cli.failover.failover_hold_timeout {
            Choice::Automatic => None,
            Choice::Given(timeout) => Some(timeout),
        },
        failover_hold_bytes: cli.failover.failover_hold_bytes,
        lease_wait_timeout: cli.nodes.lease_wait_timeout,
        drain_timeout: cli.operation.drain_timeout,
        idle_timeout: cli.clients.idle_timeout,
        client_auth,
        entry,
        denied: Denied::new(&cli.clients.deny_commands),
        admin_users: cli.clients.admin_users.clone(),
        node_credentials,
        watch: Watch {
            slower_than: match cli.operation.slowlog_threshold {
                Switch::Off => None,
                Switch::On(threshold) => Some(threshold),
            },
            sample: match cli.operation.sample_commands {
                Switch::Off => None,
                Switch::On(one_in) => Some(one_in),
            },
            spans: None,
        },
        workers: match cli.operation.workers {
            Choice::Automatic => std::thread::available_parallelism().map_or(1, usize::from),
            Choice::Given(workers) => workers,
        },
        spread_after: cli.operation.spread_after,
        shown: cli.facts.lines().into(),
    }
}

/// The certificates of each side. `clients`: some listener speaks TLS.
fn tls(flags: &TlsArgs, clients: bool) -> Result<Tls, ConfigError> {
    let listen = TlsFiles {
        side: Side::Listen,
        ca: flags.listen_tls_ca_file.clone(),
        certs: flags.listen_tls_cert_file.clone(),
        keys: flags.listen_tls_key_file.clone(),
        names: flags.listen_tls_server_name.clone(),
        clients: match (flags.listen_tls_auth_clients, &flags.listen_tls_ca_file) {
            (Some(clients), _) => clients,
            (None, Some(_)) => ClientCertificates::Required,
            (None, None) => ClientCertificates::NotAsked,
        },
    };
    let outgoing = |side, ca: &Option<PathBuf>, cert: &Option<PathBuf>, key: &Option<PathBuf>| TlsFiles {
        side,
        ca: ca.clone(),
        certs: cert.iter().cloned().collect(),
        keys: key.iter().cloned().collect(),
        names: Vec::new(),
        clients: ClientCertificates::NotAsked,
    };
    let node = outgoing(
        Side::Node,
        &flags.node_tls_ca_file,
        &flags.node_tls_cert_file,
        &flags.node_tls_key_file,
    );
    let sentinel = outgoing(
        Side::Sentinel,
        &flags.sentinel_tls_ca_file,
        &flags.sentinel_tls_cert_file,
        &flags.sentinel_tls_key_file,
    );
    Tls::new(
        listen.checked(clients)?,
        node.checked(flags.node_tls)?,
        sentinel.checked(flags.sentinel_tls)?,
    )
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    /// What slipring makes of `line`, or what it prints; `--sentinels` is there already.
    pub(super) fn read(line: &str) -> Result<Config, String> {
        let words = ["slipring", "--sentinels", "s1:26379,s2:26379"]
            .into_iter()
            .chain(line.split_whitespace());
        let words: Vec<_> = words.map(OsString::from).collect();
        let cli = Cli::read(&words).map_err(|error| error.to_string())?;
        Config::new(cli).map_err(|error| error.to_string())
    }

    fn wrong(line: &str) -> String {
        read(line).err().unwrap_or_else(|| panic!("{line} was taken"))
    }

    #[test]
    fn what_is_left_out_has_the_defaults_of_the_contract() {
        let config = read("").unwrap();
        let settings = &config.settings;
        assert_eq!(
            config.doors,
            [Door {
                flag: "--listen",
                address: "127.0.0.1:6379".parse::<SocketAddr>().unwrap().into(),
                tls: false,
                proxied: false,
                upstream: 0,
                reads: ReadPolicy::Primary
            }]
        );
        assert_eq!(config.admin, Some("127.0.0.1:9379".parse().unwrap()));
        assert_eq!(config.masters[0].master, "mymaster");
        assert_eq!(config.masters[0].sentinels.len(), 2);
        assert_eq!(
            (settings.max_clients, settings.pool_size, settings.mux_connections),
            (10_000, 10_000, 1)
        );
        assert_eq!(settings.connect_timeout.as_millis(), 1000);
        assert_eq!(settings.node_timeout.as_millis(), 1000);
        assert_eq!(settings.failover_hold_timeout, None);
        assert_eq!(settings.failover_hold_bytes, 256 << 20);
        assert_eq!(settings.lease_wait_timeout.as_millis(), 5000);
        assert_eq!(settings.drain_timeout.as_millis(), 20_000);
        assert!(settings.idle_timeout.is_zero());
        assert_eq!(settings.client_auth, ClientAuth::Passthrough);
        assert!(settings.workers >= 1);
    }

    #[test]
    fn a_wrong_value_names_flag_value_and_remedy() {
        for (line, flag, remedy) in [
            ("--listen 6379", "'6379' for '--listen", "takes IP:PORT"),
            (
                "--listen redis:6379",
                "'redis:6379' for '--listen",
                "takes IP:PORT",
            ),
            ("--replica-listen x", "'x' for '--replica-listen", "takes IP:PORT"),
            ("--sentinels s3", "'s3' for '--sentinels", "takes HOST:PORT"),
            ("--address-map a", "'a' for '--address-map", "host:port=host:port"),
            ("--max-clients 0", "'0' for '--max-clients", "at least 1"),
            ("--max-clients many", "'many' for '--max-clients", "whole number"),
            ("--pool-size -1", "'-1'", "--help"),
            (
                "--idle-timeout 5",
                "'5' for '--idle-timeout",
                "takes a duration with ms, s or m",
            ),
            (
                "--connect-timeout 0s",
                "'0s' for '--connect-timeout",
                "above zero",
            ),
            (
                "--failover-hold-timeout never",
                "'never' for '--failover-hold-timeout",
                "takes auto, or a duration",
            ),
            (
                "--failover-hold-bytes 1tb",
                "'1tb' for '--failover-hold-bytes",
                "256mb",
            ),
            ("--max-replica-lag far", "far", "duration"),
            (
                "--read-policy nearest",
                "'nearest' for '--read-policy",
                "prefer-replica",
            ),
            ("--client-auth tls", "'tls' for '--client-auth", "passthrough"),
            (
                "--protected-mode maybe",
                "'maybe' for '--protected-mode",
                "yes, no",
            ),
            ("--metrics-listen 9379", "'9379' for '--metrics-listen", "or off"),
            ("--workers 0", "'0' for '--workers", "takes cores, or"),
            ("--log-level loud", "'loud' for '--log-level", "debug"),
            ("--log-format xml", "'xml' for '--log-format", "json"),
            (
                "--listen 127.0.0.1:1=nobody",
                "--listen 127.0.0.1:1=nobody:",
                "one of: mymaster",
            ),
            ("--master a --master b", "--listen 127.0.0.1:6379:", "of a, b"),
            (
                "--master a,b --listen 127.0.0.1:1=a",
                "--master b:",
                "add --listen IP:PORT=b",
            ),
            ("--master a --master a", "--master a:", "named twice"),
            (
                "--listen 127.0.0.1:1,127.0.0.1:1",
                "--listen 127.0.0.1:1:",
                "its own port",
            ),
            (
                "--client-auth proxy",
                "--client-auth proxy:",
                "--client-password-file",
            ),
            (
                "--client-auth none --client-password x",
                "--client-auth none:",
                "take proxy",
            ),
            (
                "--client-auth passthrough --client-password x",
                "--client-auth passthrough:",
                "take proxy",
            ),
            (
                "--client-auth none --listen *:6379",
                "--client-auth none:",
                "--protected-mode no",
            ),
            ("--max-memory 1mb", "'1mb' for '--max-memory", "at least 32mb"),
            (
                "--allow-cidr 10.0.0.0/33",
                "'10.0.0.0/33' for '--allow-cidr",
                "2001:db8::/32",
            ),
            (
                "--handshake-timeout 0",
                "'0' for '--handshake-timeout",
                "above zero",
            ),
            (
                "--max-clients-per-ip 0",
                "'0' for '--max-clients-per-ip",
                "at least 1",
            ),
            ("--username app", "--username app:", "add --password-file"),
            (
                "--sentinel-username app",
                "--sentinel-username app:",
                "add --sentinel-password-file",
            ),
            (
                "--password-file /no/such",
                "--password-file /no/such:",
                "may read",
            ),
            ("--password-file /dev/null", "--password-file /dev/null:", "empty"),
        ] {
            let message = wrong(line);
            assert!(
                message.contains(flag) && message.contains(remedy),
                "{line}: {message}"
            );
        }
    }

    #[test]
    fn a_client_password_implies_proxy() {
        let config = read("--client-password pw --listen *:6379").unwrap();
        assert_eq!(config.settings.client_auth, ClientAuth::Proxy);
        assert!(!config.settings.entry.users.is_empty());
        assert!(read("--client-auth none").is_ok());
        assert!(read("--client-auth none --listen *:6379 --protected-mode no").is_ok());
    }

    #[test]
    fn no_error_quotes_a_secret() {
        for line in [
            "--password hunter2 --password-file /dev/null",
            "--password hunter2 --listen x",
            "--password -hunter2 --workers 0",
            "--client-password hunter2 --client-auth none",
            "--sentinel-password --hunter2 --username x",
        ] {
            let message = wrong(line);
            assert!(!message.contains("hunter2"), "{line}: {message}");
        }
    }
}
