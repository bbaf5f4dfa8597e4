//! SIGHUP and `PROXY RELOAD`: flags, variables, file, secrets and certificates are read again, and what can change
//! while clients are served does.
//!
//! ```text
//!  read and check as at the start ──> try it on the sentinels and primaries ──> apply ──> say what changed, what could not
//!        any fault: nothing changes            locks out, or loses sentinels: nothing changes
//! ```

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use proxy_core::{ClientAuth, Handle, ReadPolicy, Settings, Upstream};
use resp_codec::Value;
use sentinel_watcher::{Credentials, Dial, HostPort, Manners, Primary, Steering, WatcherConfig};

use crate::cli::Cli;
use crate::config::Config;
use crate::config::doors::Door;
use crate::descriptors;
use crate::dial::{LiveDial, dials};
use crate::facts::Facts;
use crate::inquiry::{Failure, ask};
use crate::log::Level;
use crate::status::Watched;
use crate::tls::Tls;

/// What a running slipring cannot change: all other flags take effect with a reload.
const RESTART: [&str; 15] = [
    "listen",
    "replica-listen",
    "proxy-protocol",
    "listen-tls",
    "metrics-listen",
    "master",
    "workers",
    "mux-connections",
    "client-auth",
    "log-format",
    "slowlog-threshold",
    "sample-commands",
    "otlp-endpoint",
    "upgrade-socket",
    "upgrade-linger",
];

/// One master that is watched.
pub(crate) struct Master {
    pub(crate) watched: Watched,
    steering: Steering,
}

/// What runs, and how to read it again.
pub(crate) struct Reloader {
    pub(crate) arguments: Vec<OsString>,
    /// As applied.
    pub(crate) facts: Facts,
    /// As applied.
    pub(crate) settings: Settings,
    /// As applied.
    pub(crate) drain_delay: Duration,
    pub(crate) doors: Vec<Door>,
    pub(crate) masters: Vec<Master>,
    pub(crate) tls: Tls,
    /// To nodes, and to sentinels.
    pub(crate) dials: [Arc<LiveDial>; 2],
    pub(crate) level: Level,
}

// === impl Master ===

impl Master {
    pub(crate) fn of(upstream: &Upstream) -> Self {
        let watched = Watched {
            master: Arc::clone(&upstream.master),
            topology: upstream.feed.clone(),
            health: upstream.health.clone(),
        };
        Self {
            watched,
            steering: upstream.steering.clone(),
        }
    }
}

// === impl Reloader ===

impl Reloader {
    /// Lines that say what has changed, or why nothing has.
    pub(crate) async fn reload(&mut self, handle: &Handle) -> Result<Vec<String>, String> {
        let answer = self.read_again(handle).await;
        match &answer {
            Ok(lines) => tracing::info!("reloaded: {}", lines.join("; ")),
            Err(reason) => tracing::error!("not reloaded, nothing is changed: {reason}"),
        }
        answer
    }

    /// Holds the writes of all masters, or lets them flow again.
    pub(crate) async fn pause(&self, pause: bool) {
        for Master { watched, steering } in &self.masters {
            let taken = if pause {
                steering.pause().await
            } else {
                steering.resume().await
            };
            tracing::info!(
                master = &*watched.master,
                taken,
                "a signal orders writes to {}",
                if pause { "wait" } else { "flow" }
            );
        }
    }

    async fn read_again(&mut self, handle: &Handle) -> Result<Vec<String>, String> {
        let told = |error: String| error.lines().next().unwrap_or_default().replace("error: ", "");
        let cli = Cli::read(&self.arguments).map_err(|error| told(error.to_string()))?;
        let mut config = Config::new(cli).map_err(|error| told(error.to_string()))?;
        let (fixed, changed): (Vec<_>, Vec<_>) = self
            .changed(&config)
            .into_iter()
            .partition(|key| RESTART.contains(&&**key));
        self.keep(&mut config, &fixed);
        keeps_a_way_in(&config.settings)?;
        keeps_a_certificate(&config, &changed)?;
        self.keeps_an_address(&config.settings, handle)?;
        self.keeps_sentinels(&config, &changed).await?;
        self.keeps_primaries(&config, &changed).await?;
        self.apply(config, handle).await;
        let list = |what: &str, keys: Vec<String>| format!("{what}: {}", keys.join(", "));
        let mut lines = Vec::new();
        if changed.is_empty() {
            lines.push("OK, nothing is changed".to_owned());
        } else {
            lines.push(list("OK, changed", changed));
        }
        if !fixed.is_empty() {
            lines.push(list("only a restart changes", fixed));
        }
        Ok(lines)
    }

    /// The flags that are something else in `config`.
    fn changed(&self, config: &Config) -> Vec<String> {
        let mut keys = self.facts.changed(&config.facts);
        // The file of users names others.
        let users = &self.settings.entry.users;
        let rotated = users.rotated(&config.settings.entry.users).next().is_some();
        if rotated && !keys.iter().any(|key| key == "users-file") {
            keys.push("users-file".to_owned());
        }
        keys
    }

    /// What only a restart changes stays as it is.
    fn keep(&self, config: &mut Config, fixed: &[String]) {
        config.facts.keep(fixed, &self.facts);
        config.settings = Settings {
            workers: self.settings.workers,
            mux_connections: self.settings.mux_connections,
            client_auth: self.settings.client_auth,
            shown: config.facts.lines().into(),
            ..config.settings.clone()
        };
    }

    /// Somebody of those who are there could come again.
    fn keeps_an_address(&self, settings: &Settings, handle: &Handle) -> Result<(), String> {
        let all_inet = self.doors.iter().all(|door| door.address.inet().is_some());
        if all_inet && handle.would_shut_out(&settings.entry) {
            return Err(
                "it would lock everybody out: --allow-cidr names the address of nobody who is connected now"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// At least one sentinel of the new configuration must know each master, unless none answers as it is.
    async fn keeps_sentinels(&self, config: &Config, changed: &[String]) -> Result<(), String> {
        if !changed.iter().any(|key| key.starts_with("sentinel")) {
            return Ok(());
        }
        let [_, dial] = dials(config);
        for master in &self.masters {
            if master.watched.health.load().sentinels_answering() == 0 {
                continue;
            }
            let watched = watching(config, &master.watched.master);
            let asked = watched
                .sentinels
                .iter()
                .map(|sentinel| knows(&*dial, sentinel, &watched));
            let answers = futures_util::future::join_all(asked).await;
            if answers.iter().all(Result::is_err) {
                let reasons = answers.into_iter().filter_map(Result::err).collect::<Vec<_>>();
                return Err(format!("it would lose the sentinels: {}", reasons.join("; ")));
            }
        }
        Ok(())
    }

    /// Every primary that serves must take the new credentials, and slipring's own over the new transport.
    async fn keeps_primaries(&self, config: &Config, changed: &[String]) -> Result<(), String> {
        let concerns = |key: &String| {
            key.starts_with("node-tls") || ["username", "password", "password-file"].contains(&&**key)
        };
        let concerned = changed.iter().any(concerns);
        let rotated = self.settings.entry.users.rotated(&config.settings.entry.users);
        let rotated: Vec<_> = rotated.map(|(name, _, new)| (name, new)).collect();
        if !concerned && rotated.is_empty() {
            return Ok(());
        }
        let [dial, _] = dials(config);
        for master in &self.masters {
            let primary = master.watched.topology.load().shard(0).primary.clone();
            let Some(Primary { address, .. }) = primary else {
                continue;
            };
            let watched = watching(config, &master.watched.master);
            if concerned {
                let own = manners(&watched, watched.node_credentials.clone());
                takes(&*dial, &address, &own, b"ROLE").await.map_err(|reason| {
                    format!("it would lock everybody out: {address} does not take the new --username, --password or --node-tls: {reason}")
                })?;
            }
            for (name, new) in &rotated {
                // Whoever the user is, it may ask this.
                let theirs = manners(&watched, Some((*new).clone()));
                takes(&*dial, &address, &theirs, b"HELLO").await.map_err(|reason| {
                    let name = String::from_utf8_lossy(name);
                    format!("it would lock {name} out: {address} does not take its new node-password-file: {reason}")
                })?;
            }
        }
        Ok(())
    }

    async fn apply(&mut self, mut config: Config, handle: &Handle) {
        config.settings.max_clients =
            descriptors::make_room(config.settings.max_clients, config.settings.workers);
        for (live, dial) in self.dials.iter().zip(dials(&config)) {
            live.replace(dial);
        }
        self.tls.take_over(&config.tls);
        for master in &self.masters {
            if !master
                .steering
                .reconfigure(watching(&config, &master.watched.master))
                .await
            {
                tracing::error!(master = &*master.watched.master, "its watcher takes no orders");
            }
        }
        let reads = self.doors.iter().map(|door| match door.flag {
            "--replica-listen" => ReadPolicy::PreferReplica,
            _ => config.read_policy,
        });
        handle.reload(config.settings.clone(), reads.collect()).await;
        self.level.set(config.log_level);
        self.drain_delay = config.drain_delay;
        (self.settings, self.facts) = (config.settings, config.facts);
    }
}

/// How `config` has the master `name` watched: they differ in their names alone.
fn watching(config: &Config, name: &str) -> WatcherConfig {
    let any = config.masters.first().expect("there is one at least");
    WatcherConfig {
        master: name.to_owned(),
        ..any.clone()
    }
}

/// Somebody can still log in.
fn keeps_a_way_in(settings: &Settings) -> Result<(), String> {
    if settings.client_auth == ClientAuth::Proxy && settings.entry.users.is_empty() {
        return Err(
            "it would lock everybody out: --client-auth stays proxy until a restart, and nobody would have a password"
                .to_owned(),
        );
    }
    Ok(())
}

/// What clients are shown is valid today, if it is another one than before.
fn keeps_a_certificate(config: &Config, changed: &[String]) -> Result<(), String> {
    match &config.tls.out_of_date {
        Some(fault) if changed.iter().any(|key| key == "listen-tls-cert-file") => {
            Err(format!("clients would refuse the certificate: {}", fault.what()))
        }
        _ => Ok(()),
    }
}

/// As `watched` says, but for who asks.
fn manners(watched: &WatcherConfig, credentials: Option<Credentials>) -> Manners {
    Manners {
        credentials,
        connect_timeout: watched.connect_timeout,
        answer_timeout: watched.node_timeout,
    }
}

/// `node` lets them in, and answers `command` without an error.
async fn takes(dial: &dyn Dial, node: &HostPort, manners: &Manners, command: &[u8]) -> Result<(), String> {
    let replies = ask(dial, node, manners, &[&[command]]).await;
    let replies = replies.map_err(|failure| failure.to_string())?;
    let refusal = replies.first().and_then(Value::as_error);
    refusal.map_or(Ok(()), |reason| Err(reason.to_owned()))
}

/// `sentinel` answers, and knows the master.
async fn knows(dial: &dyn Dial, sentinel: &HostPort, watched: &WatcherConfig) -> Result<(), String> {
    let manners = manners(watched, watched.sentinel_credentials.clone());
    let master = watched.master.as_bytes();
    let question: [&[&[u8]]; 1] = [&[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", master]];
    let replies = ask(dial, sentinel, &manners, &question).await;
    match replies.as_ref().map(Vec::as_slice) {
        Ok([Value::Array(_)]) => Ok(()),
        Ok([Value::Error(error)]) => Err(format!("{sentinel}: {error}")),
        Ok(_) => Err(format!("{sentinel} knows no master named {:?}", watched.master)),
        Err(Failure::Unreachable(why) | Failure::Auth(why)) => Err(format!("{sentinel}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// What is not in the list takes effect: a new flag joins by being read where it is used.
    #[test]
    fn what_only_a_restart_changes_are_flags() {
        let command = Cli::command();
        let flags: Vec<_> = command
            .get_arguments()
            .filter_map(|flag| flag.get_long())
            .collect();
        for key in RESTART {
            assert!(flags.contains(&key), "{key}");
        }
    }
}
