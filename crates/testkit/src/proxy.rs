//! slipring itself as a process, on free ports.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::client::Client;
use crate::load::Hold;
use crate::netns::Place;
use crate::port::Port;
use crate::process::{Process, scratch};
use crate::servers::Cluster;
use crate::wait::PROBE_TIMEOUT;

/// A running proxy; killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    process: Process,
    program: PathBuf,
    args: Vec<String>,
    envs: Vec<(String, String)>,
    /// How many processes have come after the first.
    successors: usize,
    /// Where we reach it.
    host: Ipv4Addr,
    listeners: Vec<Listener>,
    admin: Port,
    folder: TempDir,
}

/// What a proxy is to be.
#[derive(Debug)]
pub struct ProxyBuilder {
    program: PathBuf,
    args: Vec<String>,
    envs: Vec<(String, String)>,
    listeners: Vec<(Kind, Option<String>)>,
    port: Option<Port>,
    host: Ipv4Addr,
    place: Option<Place>,
    upgradable: bool,
}

/// Where in its folder a proxy awaits its successor.
const UPGRADE_SOCKET: &str = "upgrade.sock";

#[derive(Debug)]
struct Listener {
    kind: Kind,
    master: Option<String>,
    port: Port,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Primary,
    Replica,
}

// === impl ProxyBuilder ===

impl ProxyBuilder {
    /// Follows this cluster's sentinels.
    #[must_use]
    pub fn sentinels(self, cluster: &Cluster) -> Self {
        self.flag("--sentinels", &cluster.sentinel_list())
    }

    /// Adds a flag and its value.
    #[must_use]
    pub fn flag(mut self, flag: &str, value: &str) -> Self {
        self.args.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.envs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds this master and a listener of its own. Without the call there is one listener, for the flag's default master.
    #[must_use]
    pub fn master(mut self, name: &str) -> Self {
        self.listeners.push((Kind::Primary, Some(name.to_owned())));
        self.flag("--master", name)
    }

    /// Adds a listener whose reads go to replicas, for that master where there are several.
    #[must_use]
    pub fn replica_listener(mut self, master: Option<&str>) -> Self {
        self.listeners.push((Kind::Replica, master.map(str::to_owned)));
        self
    }

    /// Listens on every address of this machine instead of 127.0.0.1 alone.
    #[must_use]
    pub fn everywhere(mut self) -> Self {
        self.host = Ipv4Addr::UNSPECIFIED;
        self
    }

    /// Runs in that namespace, and listens there.
    #[must_use]
    pub fn within(mut self, place: &Place) -> Self {
        self.host = place.host;
        self.place = Some(place.clone());
        self
    }

    /// Lets [`Proxy::succeed`] replace it.
    #[must_use]
    pub fn upgradable(mut self) -> Self {
        self.upgradable = true;
        self
    }

    /// Has the first listener on this port instead of a free one.
    #[must_use]
    pub fn port(mut self, port: Port) -> Self {
        self.port = Some(port);
        self
    }

    /// Starts it and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it does not come to that, with the tail of its log.
    pub fn start(self) -> Result<Proxy> {
        let proxy = self.spawn()?;
        proxy.wait_ready()?;
        Ok(proxy)
    }

    /// Starts it and waits for nothing.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(mut self) -> Result<Proxy> {
        if !self.listeners.iter().any(|(kind, _)| *kind == Kind::Primary) {
            self.listeners.insert(0, (Kind::Primary, None));
        }
        let mut listeners = Vec::new();
        for (kind, master) in std::mem::take(&mut self.listeners) {
            let port = self.port.take().map_or_else(Port::free, Ok)?;
            let suffix = master
                .as_deref()
                .map(|name| format!("={name}"))
                .unwrap_or_default();
            let flag = match kind {
                Kind::Primary => "--listen",
                Kind::Replica => "--replica-listen",
            };
            let address = SocketAddr::from((self.host, port.number()));
            self = self.flag(flag, &format!("{address}{suffix}"));
            listeners.push(Listener { kind, master, port });
        }
        let admin = Port::free()?;
        let endpoint = SocketAddr::from((self.host, admin.number()));
        self = self.flag("--metrics-listen", &endpoint.to_string());
        let name = format!("slipring-{}", listeners[0].port.number());
        let folder = scratch(&name)?;
        let log = folder.path().join("log");
        if self.upgradable {
            let socket = folder.path().join(UPGRADE_SOCKET).display().to_string();
            self = self.flag("--upgrade-socket", &socket);
        }
        let (program, args) = match &self.place {
            Some(place) => place.command(&self.program, self.args),
            None => (self.program, self.args),
        };
        let process = Process::start_with_env(&name, &program, args.clone(), self.envs.clone(), log)?;
        Ok(Proxy {
            process,
            program,
            args,
            envs: self.envs,
            successors: 0,
            host: self.place.map_or(Ipv4Addr::LOCALHOST, |place| place.host),
            listeners,
            admin,
            folder,
        })
    }
}

// === impl Proxy ===

impl Proxy {
    /// Describes a proxy run by that program: in the binary's own tests, `env!("CARGO_BIN_EXE_slipring")`.
    #[must_use]
    pub fn builder(program: impl AsRef<Path>) -> ProxyBuilder {
        ProxyBuilder {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            envs: Vec::new(),
            listeners: Vec::new(),
            port: None,
            host: Ipv4Addr::LOCALHOST,
            place: None,
            upgradable: false,
        }
    }

    /// Where clients connect: the first listener.
    ///
    /// # Panics
    /// Never: there is always one.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener(Kind::Primary, None)
    }

    /// Where clients of that master connect.
    ///
    /// # Panics
    /// When the test asked for no such listener.
    #[must_use]
    pub fn address_of(&self, master: &str) -> SocketAddr {
        self.listener(Kind::Primary, Some(master))
    }

    /// Where clients connect whose reads go to replicas.
    ///
    /// # Panics
    /// When the test asked for no such listener.
    #[must_use]
    pub fn replica_address(&self) -> SocketAddr {
        self.listener(Kind::Replica, None)
    }

    /// A new client of the first listener.
    ///
    /// # Errors
    /// When it does not accept.
    pub fn client(&self) -> Result<Client> {
        Client::connect(self.address()).with_context(|| self.process.log_tail())
    }

    /// The process, for its pid and its log.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Where /metrics and the like are.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        (self.host, self.admin.number()).into()
    }

    /// Waits until /readyz says yes.
    ///
    /// # Errors
    /// When it does not, with its last answer and the tail of the log.
    pub fn wait_ready(&self) -> Result<()> {
        self.process.wait_until("/readyz", || {
            let (status, body) = self.get("/readyz")?;
            ensure!(status == 200, "it answers {status}: {body}");
            Ok(())
        })
    }

    /// Asks the admin endpoint: status and body.
    ///
    /// # Errors
    /// When there is no whole answer within a second.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        get(self.admin_address(), path)
    }

    /// Each time that commands of the first master waited, as /failovers tells of it.
    ///
    /// # Errors
    /// When that is not served, or makes no sense.
    pub fn holds(&self) -> Result<Vec<Hold>> {
        let (_, page) = self.get("/failovers")?;
        let page: serde_json::Value = serde_json::from_str(&page)?;
        let records = page["masters"][0]["failovers"].as_array();
        let (here, now) = (Instant::now(), SystemTime::now());
        let hold = |record: &serde_json::Value| {
            let began = UNIX_EPOCH + Duration::from_millis(record["began_unix_ms"].as_u64()?);
            let began = here - now.duration_since(began).ok()?;
            let ended = record["promoted_ms"].as_u64().or(record["ended_ms"].as_u64());
            let ended = ended.map(|after| began + Duration::from_millis(after));
            Some(Hold { began, ended })
        };
        let holds = records.context("no list")?.iter().map(hold);
        holds.collect::<Option<_>>().with_context(|| format!("{page:#}"))
    }

    /// The page of metrics.
    ///
    /// # Errors
    /// When it is not served.
    pub fn metrics(&self) -> Result<String> {
        match self.get("/metrics")? {
            (200, page) => Ok(page),
            (status, body) => bail!("/metrics answers {status}: {body}"),
        }
    }

    /// The sum of a metric over those of its series whose labels hold all of `labels`, each written `name="value"`; 0 without any.
    ///
    /// # Errors
    /// When metrics are not served.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let page = self.metrics()?;
        let series = page.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
                && labels.iter().all(|label| line.contains(label))
        });
        Ok(series
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum())
    }

    /// Starts another process with the same flags, which takes over from this one. What is left of this one.
    ///
    /// # Errors
    /// When it cannot be started.
    ///
    /// # Panics
    /// Unless it is [upgradable](ProxyBuilder::upgradable).
    pub fn succeed(&mut self) -> Result<Process> {
        let socket = self.folder.path().join(UPGRADE_SOCKET);
        assert!(socket.exists(), "the test asks for an upgradable proxy");
        self.successors += 1;
        let name = format!("{}-{}", self.process.name(), self.successors);
        let log = self.folder.path().join(format!("log-{}", self.successors));
        let from = ["--upgrade-from".to_owned(), socket.display().to_string()];
        let args = self.args.iter().cloned().chain(from).collect();
        let successor = Process::start_with_env(&name, &self.program, args, self.envs.clone(), log)?;
        Ok(std::mem::replace(&mut self.process, successor))
    }

    /// `slipring check` with its flags: whether nothing is wrong, and what it prints.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn check(&self) -> Result<(bool, String)> {
        let mut command = Command::new(&self.program);
        let envs = self.envs.iter().map(|(name, value)| (name, value));
        let told = command.arg("check").args(&self.args).envs(envs).output()?;
        let printed = [told.stdout, told.stderr].concat();
        Ok((
            told.status.success(),
            String::from_utf8_lossy(&printed).into_owned(),
        ))
    }

    /// Asks it to drain (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// When it has not ended within `timeout`, with the tail of its log.
    pub fn terminate(&self, timeout: Duration) -> Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(timeout)
    }

    fn listener(&self, kind: Kind, master: Option<&str>) -> SocketAddr {
        let listener = self.listeners.iter().find(|listener| {
            listener.kind == kind && (master.is_none() || listener.master.as_deref() == master)
        });
        let listener = listener.expect("the test names a listener that it asked for");
        (self.host, listener.port.number()).into()
    }
}

/// Asks an admin endpoint, or whatever else speaks HTTP: status and body. In HTTP/1.0, where a body has no chunks.
///
/// # Errors
/// When there is no whole answer within a second.
pub fn get(admin: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: slipring\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| anyhow!("no HTTP: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    // Bodies are small and of known length here, so there is no chunked encoding to undo.
    ensure!(
        !head.to_ascii_lowercase().contains("transfer-encoding"),
        "chunked: {head}"
    );
    Ok((
        status.ok_or_else(|| anyhow!("no HTTP: {head:?}"))?,
        body.to_owned(),
    ))
}
