//! The command line: every flag, its environment variable, and what an operator reads about it.

mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgAction, Args, CommandFactory, FromArgMatches, Parser};
use ipnet::IpNet;
use proxy_core::{ClientAuth, ReadPolicy};
use sentinel_watcher::{AddressMapEntry, HostPort, Lag, Secret};
use tokio_rustls::rustls::pki_types::ServerName;
use tracing::level_filters::LevelFilter;

use crate::facts::Facts;
use crate::file::{File, FileError};
use crate::tls::ClientCertificates;
pub(crate) use values::{AdminSpec, Choice, Collector, ListenSpec, Switch, Transport};

/// A Redis proxy that follows Sentinel.
///
/// Applications talk to slipring as to one plain Redis; when Sentinel moves the primary, they keep their
/// connections and notice a pause.
#[derive(Parser)]
#[command(name = "slipring", version, after_help = AFTER_HELP, max_term_width = 120)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) masters: MasterArgs,
    #[command(flatten)]
    pub(crate) clients: ClientArgs,
    #[command(flatten)]
    pub(crate) nodes: NodeArgs,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    #[command(flatten)]
    pub(crate) failover: FailoverArgs,
    #[command(flatten)]
    pub(crate) operation: OperationArgs,
    /// What `--config` names.
    #[arg(skip)]
    pub(crate) file: Option<File>,
    /// What every flag is set to.
    #[arg(skip)]
    pub(crate) facts: Facts,
}

const AFTER_HELP: &str = "\
Each flag has an environment variable: SLIPRING_SENTINELS for --sentinels, and so on. Lists are separated by commas
there. A flag wins over its variable; an empty variable counts as unset.

Durations take ms, s or m (500ms, 5s, 2m), sizes kb, mb or gb (256mb).

SIGTERM and SIGINT drain: clients finish what they are at, within --drain-timeout. A second signal ends at once.
SIGHUP reads file, secrets and certificates again. SIGUSR1 holds all writes, SIGUSR2 lets them flow again.

slipring check FLAGS asks sentinels and nodes whether all is well with these flags, and says what mends what is not.
slipring status [--json] asks a running slipring how it fares.

Examples:
  slipring --sentinels s1:26379,s2:26379,s3:26379
  slipring --sentinels s1:26379 --master users --master carts --listen '*:6379=users' --listen '*:6380=carts'";

#[derive(Args)]
#[command(next_help_heading = "Whom to follow")]
pub(crate) struct MasterArgs {
    /// Sentinels to ask; they name the others.
    #[arg(long, value_name = "HOST:PORT,...", required = true, value_delimiter = ',', value_parser = values::sentinel)]
    pub(crate) sentinels: Vec<HostPort>,

    /// What Sentinel calls the master. Repeat it to serve several, each on its own --listen.
    #[arg(long, value_name = "NAME", default_value = "mymaster", value_delimiter = ',', value_parser = values::name)]
    pub(crate) master: Vec<String>,

    /// ACL user towards the sentinels.
    #[arg(long, value_name = "USER")]
    pub(crate) sentinel_username: Option<String>,

    /// Password towards the sentinels. Others on this machine see flags: prefer the file or the variable.
    #[arg(long, value_name = "SECRET", allow_hyphen_values = true, value_parser = values::secret)]
    pub(crate) sentinel_password: Option<Secret>,

    /// File that holds the password towards the sentinels.
    #[arg(long, value_name = "FILE", conflicts_with = "sentinel_password")]
    pub(crate) sentinel_password_file: Option<PathBuf>,

    /// Where an announced address is reached (NAT, containers): HOST:PORT=HOST:PORT or HOST=HOST. Repeatable.
    #[arg(long, value_name = "FROM=TO", value_delimiter = ',', value_parser = values::parsed::<AddressMapEntry>)]
    pub(crate) address_map: Vec<AddressMapEntry>,
}

#[derive(Args)]
#[command(next_help_heading = "Whom to serve")]
pub(crate) struct ClientArgs {
    /// Where clients connect: IP:PORT (* is every IPv4 address), tls:IP:PORT, tcp:IP:PORT (plain, whatever
    /// --listen-tls says) or unix:/PATH. Repeatable; with several masters each names its own.
    #[arg(
        long, value_name = "ADDR[=MASTER]", default_value = "127.0.0.1:6379", value_delimiter = ',',
        value_parser = values::listen
    )]
    pub(crate) listen: Vec<ListenSpec>,

    /// The same, with reads answered by a replica (by the primary where no replica is usable). Repeatable.
    #[arg(long, value_name = "ADDR[=MASTER]", value_delimiter = ',', value_parser = values::listen)]
    pub(crate) replica_listen: Vec<ListenSpec>,

    /// Clients served at once; one more gets Redis' own error.
    #[arg(long, value_name = "N", default_value = "10000", value_parser = values::count)]
    pub(crate) max_clients: usize,

    /// Resident memory from nine tenths of which new clients and large commands are refused; past 31/32 of it, who has the most
    /// unread output is closed. Default: no limit. Stay below what the kernel grants.
    #[arg(long, value_name = "SIZE", value_parser = values::memory)]
    pub(crate) max_memory: Option<usize>,

    /// Whence clients may come: networks or addresses. Default: from everywhere. Unix sockets are not concerned.
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',', value_parser = values::network)]
    pub(crate) allow_cidr: Vec<IpNet>,

    /// Clients that one address may have at once (of IPv6, one network of 64 bits).
    #[arg(long, value_name = "N", value_parser = values::count)]
    pub(crate) max_clients_per_ip: Option<usize>,

    /// Clients of one address that may come in a second.
    #[arg(long, value_name = "N", value_parser = values::count)]
    pub(crate) accept_rate_per_ip: Option<usize>,

    /// How long a client may take for what comes before its first request: PROXY header, TLS.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = values::deadline)]
    pub(crate) handshake_timeout: Duration,

    /// A client silent for so long is asked by the kernel whether it lives. 0: never.
    #[arg(long, value_name = "TIME", default_value = "300s", value_parser = values::duration)]
    pub(crate) tcp_keepalive: Duration,

    /// Clients of TCP listeners come through a load balancer that sends a PROXY header (version 1 or 2) first; who sends
    /// none is closed. Let nobody else reach these listeners.
    #[arg(long)]
    pub(crate) proxy_protocol: bool,

    /// A client silent for longer is closed. 0: never.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = values::duration)]
    pub(crate) idle_timeout: Duration,

    /// Who clients are. passthrough: whom they prove to be on the node, by AUTH. proxy: slipring checks
    /// --client-password and --users-file, and they are slipring's own user, or the one that the file says. none:
    /// slipring's own user, unasked. Default: passthrough, or proxy where there is a client password or a users file.
    #[arg(long, value_name = "HOW", value_parser = one_of::<ClientAuth>(&["passthrough", "proxy", "none"]))]
    pub(crate) client_auth: Option<ClientAuth>,

    /// Password that clients must present to slipring itself.
    #[arg(long, value_name = "SECRET", allow_hyphen_values = true, value_parser = values::secret)]
    pub(crate) client_password: Option<Secret>,

    /// File that holds it.
    #[arg(long, value_name = "FILE", conflicts_with = "client_password")]
    pub(crate) client_password_file: Option<PathBuf>,

    /// Users that slipring itself knows, in TOML: a section named after each, with passwords = ["#SHA-256", ...] and,
    /// where it is not slipring's own user to the nodes, node-user and node-password-file.
    #[arg(long, value_name = "FILE")]
    pub(crate) users_file: Option<PathBuf>,

    /// Commands that are refused, also inside MULTI: flushall, config|set. A container stands for its subcommands.
    /// Scripts may still call them.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub(crate) deny_commands: Vec<String>,

    /// Users who may order PROXY FAILOVER and the like from anywhere; whoever is on this machine may anyway.
    #[arg(long, value_name = "USER,...", value_delimiter = ',')]
    pub(crate) admin_users: Vec<String>,

    /// Refuse clients from the network where nobody asks them for a password and they do not speak TLS; refuse to
    /// lend slipring's own user to them (--client-auth none).
    #[arg(
        long, value_name = "YES|NO", default_value = "yes", action = ArgAction::Set,
        value_parser = PossibleValuesParser::new(["yes", "no"]).map(|word| word == "yes")
    )]
    pub(crate) protected_mode: bool,
}

#[derive(Args)]
#[command(next_help_heading = "How to reach the nodes")]
pub(crate) struct NodeArgs {
    /// ACL user towards the nodes.
    #[arg(long, value_name = "USER")]
    pub(crate) username: Option<String>,

    /// Password towards the nodes. Others on this machine see flags: prefer the file or the variable.
    #[arg(long, value_name = "SECRET", allow_hyphen_values = true, value_parser = values::secret)]
    pub(crate) password: Option<Secret>,

    /// File that holds the password towards the nodes.
    #[arg(long, value_name = "FILE", conflicts_with = "password")]
    pub(crate) password_file: Option<PathBuf>,

    /// Which node answers reads on --listen.
    #[arg(
        long, value_name = "WHOM", default_value = "primary",
        value_parser = one_of::<ReadPolicy>(&["primary", "prefer-primary", "replica", "prefer-replica"])
    )]
    pub(crate) read_policy: ReadPolicy,

    /// A replica further behind than this is not read: a size, or a duration. Default: no limit.
    #[arg(long, value_name = "SIZE|TIME", value_parser = values::parsed::<Lag>)]
    pub(crate) max_replica_lag: Option<Lag>,

    /// Deadline of one connection attempt, to a node or a sentinel.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::deadline)]
    pub(crate) connect_timeout: Duration,

    /// A node that owes an answer for longer is probed on a fresh connection.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::deadline)]
    pub(crate) node_timeout: Duration,

    /// Connections of their own that sessions may hold towards one node (transactions, blocking commands,
    /// subscriptions: each a budget of this size). Default: as --max-clients.
    #[arg(long, value_name = "N", value_parser = values::count)]
    pub(crate) pool_size: Option<usize>,

    /// Shared connections of each worker to a node, for each user and database; one more is for readers of large replies.
    #[arg(long, value_name = "N", default_value = "1", value_parser = values::count)]
    pub(crate) mux_connections: usize,

    /// Subscribers of one worker, user and database share one connection to the node.
    #[arg(long)]
    pub(crate) share_subscriptions: bool,

    /// How long a session waits for a connection of its own.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = values::deadline)]
    pub(crate) lease_wait_timeout: Duration,
}

#[derive(Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct TlsArgs {
    /// Clients of every --listen and --replica-listen without a prefix speak TLS.
    #[arg(long)]
    pub(crate) listen_tls: bool,

    /// Certificate chain shown to clients, in PEM, the leaf first. Repeatable: clients get the one that bears the name
    /// they ask for, else the first.
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    pub(crate) listen_tls_cert_file: Vec<PathBuf>,

    /// Its private key, in PEM: one for each chain, in the same order.
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    pub(crate) listen_tls_key_file: Vec<PathBuf>,

    /// Authorities, in PEM, that vouch for client certificates.
    #[arg(long, value_name = "FILE")]
    pub(crate) listen_tls_ca_file: Option<PathBuf>,

    /// Whether clients show a certificate. Default: yes where there are authorities for it, else no.
    #[arg(
        long, value_name = "YES|NO|OPTIONAL",
        value_parser = one_of::<ClientCertificates>(&["yes", "no", "optional"])
    )]
    pub(crate) listen_tls_auth_clients: Option<ClientCertificates>,

    /// Names that clients may ask for (SNI); others are refused. Default: any.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = values::server_name)]
    pub(crate) listen_tls_server_name: Vec<ServerName<'static>>,

    /// Connections to nodes speak TLS.
    #[arg(long)]
    pub(crate) node_tls: bool,

    /// Authorities, in PEM, that vouch for nodes.
    #[arg(long, value_name = "FILE")]
    pub(crate) node_tls_ca_file: Option<PathBuf>,

    /// Certificate chain shown to nodes, in PEM, where they ask for one.
    #[arg(long, value_name = "FILE")]
    pub(crate) node_tls_cert_file: Option<PathBuf>,

    /// Its private key, in PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) node_tls_key_file: Option<PathBuf>,

    /// Name that the certificates of nodes bear. Default: the host that is dialled.
    #[arg(long, value_name = "NAME", value_parser = values::server_name)]
    pub(crate) node_tls_server_name: Option<ServerName<'static>>,

    /// Connections to sentinels speak TLS.
    #[arg(long)]
    pub(crate) sentinel_tls: bool,

    /// Authorities, in PEM, that vouch for sentinels.
    #[arg(long, value_name = "FILE")]
    pub(crate) sentinel_tls_ca_file: Option<PathBuf>,

    /// Certificate chain shown to sentinels, in PEM, where they ask for one.
    #[arg(long, value_name = "FILE")]
    pub(crate) sentinel_tls_cert_file: Option<PathBuf>,

    /// Its private key, in PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) sentinel_tls_key_file: Option<PathBuf>,

    /// Name that the certificates of sentinels bear. Default: the host that is dialled.
    #[arg(long, value_name = "NAME", value_parser = values::server_name)]
    pub(crate) sentinel_tls_server_name: Option<ServerName<'static>>,
}

#[derive(Args)]
#[command(next_help_heading = "While the primary is away")]
pub(crate) struct FailoverArgs {
    /// How long a command waits for a primary. auto: 15 s, or twice Sentinel's down-after plus 10 s if that is longer.
    #[arg(long, value_name = "TIME", default_value = "auto", value_parser = values::deadline_or_auto)]
    pub(crate) failover_hold_timeout: Choice<Duration>,

    /// How many bytes of commands may wait; more are refused.
    #[arg(long, value_name = "SIZE", default_value = "256mb", value_parser = values::size)]
    pub(crate) failover_hold_bytes: usize,
}

#[derive(Args)]
#[command(next_help_heading = "Operation")]
pub(crate) struct OperationArgs {
    /// File of flags in TOML, each key a flag without its dashes: max-clients = 500. Flags and variables win over it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Say whether flags, environment, file and certificates are in order, and end.
    #[arg(long)]
    pub(crate) check_config: bool,

    /// Where /metrics, /healthz, /readyz, /topology and /failovers answer. Port 0 takes a free one; off: nowhere.
    #[arg(long, value_name = "IP:PORT|off", default_value = "127.0.0.1:9379", value_parser = values::admin)]
    pub(crate) metrics_listen: AdminSpec,

    /// Threads that serve clients.
    #[arg(long, value_name = "N|cores", default_value = "cores", value_parser = values::workers)]
    pub(crate) workers: Choice<usize>,

    /// Clients that the first worker serves alone: so few share its connections, and what one sends is read before what
    /// another sends after it. Past that, each new one goes to the worker with the fewest. 1: spread from the first.
    #[arg(long, value_name = "N", default_value = "32", value_parser = values::count)]
    pub(crate) spread_after: usize,

    /// How long /readyz fails before a drain begins: time for load balancers to send new clients elsewhere.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = values::duration)]
    pub(crate) drain_delay: Duration,

    /// How long a drain waits for clients to finish.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = values::duration)]
    pub(crate) drain_timeout: Duration,

    /// Commands that take longer are shown by PROXY SHOW SLOWLOG.
    #[arg(long, value_name = "TIME|off", default_value = "off", value_parser = values::deadline_or_off)]
    pub(crate) slowlog_threshold: Switch<Duration>,

    /// One command in N is looked at: its keys and sizes for PROXY SHOW HOTKEYS, itself for --otlp-endpoint.
    #[arg(long, value_name = "N|off", default_value = "off", value_parser = values::count_or_off)]
    pub(crate) sample_commands: Switch<u64>,

    /// Collector of OpenTelemetry that gets a span of each failover and of each sampled command: http://HOST:PORT.
    #[arg(long, value_name = "URL", value_parser = values::collector)]
    pub(crate) otlp_endpoint: Option<Collector>,

    /// Take over from the slipring that runs with this --upgrade-socket: its listening sockets and its clients' connections.
    #[arg(long, value_name = "PATH")]
    pub(crate) upgrade_from: Option<PathBuf>,

    /// Where the next slipring may take over from this one: a unix socket for its own user alone.
    #[arg(long, value_name = "PATH")]
    pub(crate) upgrade_socket: Option<PathBuf>,

    /// How long clients that cannot move (TLS, a transaction without end) are served when another slipring has taken
    /// over. Then they are closed as by a drain.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = values::duration)]
    pub(crate) upgrade_linger: Duration,

    /// Least severe messages to log.
    #[arg(
        long, value_name = "LEVEL", default_value = "info",
        value_parser = one_of::<LevelFilter>(&["error", "warn", "info", "debug", "trace"])
    )]
    pub(crate) log_level: LevelFilter,

    /// How log lines look, on standard error.
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = one_of::<LogFormat>(&["text", "json"]))]
    pub(crate) log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// What is said instead of starting: help, or what is wrong with a flag or a file.
#[derive(Debug)]
pub(crate) enum Usage {
    Line(clap::Error),
    File(FileError),
}

// === impl Cli ===

impl Cli {
    /// Reads flags, then environment variables, then the file, then defaults. `arguments` begin with the program's name.
    pub(crate) fn read(arguments: &[OsString]) -> Result<Self, Usage> {
        let command = Self::command().mut_args(with_variable);
        // Whatever else is wrong is told by the second reading.
        let first = command
            .clone()
            .ignore_errors(true)
            .try_get_matches_from(arguments);
        let path = first
            .ok()
            .and_then(|first| first.get_one::<PathBuf>("config").cloned());
        let mut file = path.map(|path| File::read(&path, &command)).transpose()?;
        let filled = match &file {
            Some(file) => file.apply(command.clone()),
            None => command.clone(),
        };
        let matches = filled.try_get_matches_from(arguments)?;
        if let Some(file) = &mut file {
            file.keep_effective(&matches, &command);
        }
        let mut cli = Self::from_arg_matches(&matches)?;
        cli.file = file;
        cli.facts = Facts::of(&matches, &command);
        Ok(cli)
    }
}

// === impl Usage ===

impl Usage {
    /// Prints the message where it belongs. True: nothing is wrong, help or version was asked for.
    pub(crate) fn print(&self) -> bool {
        match self {
            Self::Line(message) => {
                // Nobody to tell where standard error itself is gone.
                let _ = message.print();
                !message.use_stderr()
            }
            Self::File(error) => {
                eprintln!("{error}");
                false
            }
        }
    }
}

impl From<clap::Error> for Usage {
    fn from(error: clap::Error) -> Self {
        Self::Line(error)
    }
}

impl From<FileError> for Usage {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line(message) => message.fmt(f),
            Self::File(error) => error.fmt(f),
        }
    }
}

/// Gives a flag its variable. Values stay out of the help: some are secrets.
fn with_variable(flag: Arg) -> Arg {
    let Some(long) = flag.get_long() else { return flag };
    let variable = format!("SLIPRING_{}", long.replace('-', "_").to_uppercase());
    let empty = std::env::var_os(&variable).is_some_and(|value| value.is_empty());
    if empty {
        flag
    } else {
        flag.env(variable).hide_env(true).hide_env_values(true)
    }
}

/// A parser that lists what it takes.
fn one_of<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: std::str::FromStr<Err: std::fmt::Debug> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names)
        .map(|name| name.parse().expect("each name that is listed is one that parses"))
}

// === impl LogFormat ===

impl std::str::FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("takes text or json"),
        }
    }
}
