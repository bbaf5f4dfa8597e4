//! Real servers: which there are here, and one of each kind as a process.

mod cluster;
mod node;
mod sentinel;

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, anyhow, bail};

pub use cluster::{Cluster, ClusterBuilder, Shard};
pub use node::{Node, NodeBuilder};
pub use sentinel::{Sentinel, SentinelBuilder, Watched};

/// The two servers that slipring stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flavor {
    /// redis-server
    Redis,
    /// valkey-server
    Valkey,
}

/// A server program found on this machine.
#[derive(Clone, Debug)]
pub struct Server {
    /// Whose it is, by its own word.
    pub flavor: Flavor,
    /// The program.
    pub path: PathBuf,
    /// As it prints it: `7.0.15`.
    pub version: String,
}

/// A name and password that a server asks for; without a name, of the user `default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The ACL user, or none for `requirepass`.
    pub user: Option<String>,
    /// Its password.
    pub password: String,
}

/// The build's `target` folder.
#[must_use]
pub fn target_folder() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    workspace.join(target)
}

/// Where `cargo xtask setup` puts the servers that it brings.
#[must_use]
pub fn servers_folder() -> PathBuf {
    target_folder().join("servers")
}

/// Whether this is continuous integration, where a missing server is a failure.
#[must_use]
pub fn under_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty() && value != *"false" && value != *"0")
}

// === impl Flavor ===

impl Flavor {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Redis, Self::Valkey];

    /// The program's name.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::Valkey => "valkey-server",
        }
    }

    /// The environment variable that names another program to use.
    #[must_use]
    pub fn variable(self) -> &'static str {
        match self {
            Self::Redis => "TESTKIT_REDIS_SERVER",
            Self::Valkey => "TESTKIT_VALKEY_SERVER",
        }
    }

    /// Finds its program: the environment variable's, then the PATH's, then what the set-up brought. On the PATH a
    /// `redis-server` that is really Valkey under its old name is passed over.
    ///
    /// # Errors
    /// When there is none, saying what to do.
    pub fn server(self) -> Result<Server> {
        if let Some(path) = env::var_os(self.variable()) {
            return Server::probe(Path::new(&path));
        }
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .chain([servers_folder()])
            .map(|folder| folder.join(self.program()))
            .filter(|candidate| candidate.is_file())
            .filter_map(|candidate| Server::probe(&candidate).ok())
            .find(|server| server.flavor == self)
            .ok_or_else(|| anyhow!("{} is missing: run `cargo xtask setup`", self.program()))
    }

    /// Whether a test against it can run here; where not, says so once on standard error.
    ///
    /// # Panics
    /// Under CI, where a missing server is a failure.
    #[must_use]
    pub fn runs_here(self) -> bool {
        match self.server() {
            Ok(_) => true,
            Err(error) => {
                assert!(!under_ci(), "{error}");
                eprintln!("not run: {error}");
                false
            }
        }
    }
}

impl fmt::Display for Flavor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redis => "Redis",
            Self::Valkey => "Valkey",
        })
    }
}

// === impl Server ===

impl Server {
    /// Asks a program what it is.
    ///
    /// # Errors
    /// When it does not run, or is neither Redis nor Valkey.
    pub fn probe(path: &Path) -> Result<Self> {
        let output = Command::new(path)
            .arg("--version")
            .output()
            .map_err(|error| anyhow!("{} does not run: {error}", path.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let flavor = match said.split_whitespace().next() {
            Some("Redis") => Flavor::Redis,
            Some("Valkey" | "Server") => Flavor::Valkey,
            _ => bail!("{} is no Redis and no Valkey: it says {said:?}", path.display()),
        };
        let version = said
            .split_whitespace()
            .find_map(|word| word.strip_prefix("v="))
            .unwrap_or("?");
        Ok(Self {
            flavor,
            path: path.to_owned(),
            version: version.to_owned(),
        })
    }

    /// The command-line client beside it, for the lines that a person is told to try.
    #[must_use]
    pub fn cli(&self) -> PathBuf {
        let name = self
            .path
            .file_name()
            .and_then(OsStr::to_str)
            .unwrap_or_default()
            .replace("server", "cli");
        self.path.with_file_name(name)
    }
}

// === impl Login ===

impl Login {
    /// The password of the user `default`.
    #[must_use]
    pub fn password(password: &str) -> Self {
        Self {
            user: None,
            password: password.to_owned(),
        }
    }

    /// An ACL user.
    #[must_use]
    pub fn user(user: &str, password: &str) -> Self {
        Self {
            user: Some(user.to_owned()),
            password: password.to_owned(),
        }
    }

    /// The command that proves it.
    #[must_use]
    pub fn auth_command(&self) -> Vec<&str> {
        [Some("AUTH"), self.user.as_deref(), Some(&self.password)]
            .into_iter()
            .flatten()
            .collect()
    }

    /// The server's configuration lines that ask for it. With a user, the user `default` is switched off.
    fn config(&self) -> String {
        match &self.user {
            None => format!("requirepass {}\n", self.password),
            Some(user) => format!(
                "user {user} on >{} ~* &* +@all\nuser default off\n",
                self.password
            ),
        }
    }
}
