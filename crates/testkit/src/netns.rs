//! Network namespaces: a primary that some can reach and others cannot. Linux, as root.
//!
//! ```text
//!   here: replicas, sentinels, clients ───── veth ───── slipring's namespace
//!         │  the wire that is cut                             │
//!         └───────── veth ───── the primary's namespace ── veth
//! ```

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::port::Port;

/// A namespace that a process runs in, and its address there.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its name, as `ip netns` knows it.
    pub name: String,
    /// Where the others reach it.
    pub host: Ipv4Addr,
}

/// Two namespaces beside ours, removed when dropped.
#[derive(Debug)]
pub struct Divided {
    /// Where the primary runs.
    pub primary: Place,
    /// Where slipring runs.
    pub proxy: Place,
    /// Our own address, on every wire.
    pub here: Ipv4Addr,
    /// So that no parallel test takes the same addresses.
    claim: Port,
}

/// Whether namespaces can be made here; under CI they must be.
///
/// # Errors
/// Under CI, when they cannot.
pub fn are_possible() -> Result<bool> {
    let possible = nix::unistd::geteuid().is_root() && ip("netns list").is_ok();
    ensure!(
        possible || !crate::servers::under_ci(),
        "network namespaces need root and `ip` of iproute2, under CI without fail"
    );
    Ok(possible)
}

// === impl Divided ===

impl Divided {
    /// Makes the namespaces and their wires.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn make() -> Result<Self> {
        let claim = Port::free()?;
        let number = claim.number();
        // 198.18.0.0/15 is for tests of networks; each test has sixteen addresses there, four a wire.
        let first = Ipv4Addr::new(198, 18, 0, 0).to_bits() + u32::from(number & 0x1fff) * 16;
        let host = |wire: u8, end: u8| Ipv4Addr::from_bits(first + u32::from(wire) * 4 + u32::from(end));
        let divided = Self {
            primary: Place {
                name: format!("slip-p{number}"),
                host: host(3, 1),
            },
            proxy: Place {
                name: format!("slip-s{number}"),
                host: host(3, 2),
            },
            here: host(3, 0),
            claim,
        };
        // What a test that was killed has left.
        divided.remove();
        divided.wire(host).context("cannot make network namespaces")?;
        Ok(divided)
    }

    fn wire(&self, host: impl Fn(u8, u8) -> Ipv4Addr) -> Result<()> {
        let (p, s, n) = (&self.primary.name, &self.proxy.name, self.claim.number());
        let (at_p, at_s, here) = (self.primary.host, self.proxy.host, self.here);
        ip(&format!("addr add {here}/32 dev lo"))?;
        for (name, at) in [(p, at_p), (s, at_s)] {
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} addr add {at}/32 dev lo"))?;
        }
        // Each end: its name, its namespace, its address, and what is behind the other end.
        let wires = [
            [("vp", None, here, at_p), ("pv", Some(p), at_p, here)],
            [("vs", None, here, at_s), ("sv", Some(s), at_s, here)],
            [("ps", Some(p), at_p, at_s), ("sp", Some(s), at_s, at_p)],
        ];
        for (network, [one, other]) in (0_u8..).zip(wires) {
            ip(&format!(
                "link add {}{n} type veth peer name {}{n}",
                one.0, other.0
            ))?;
            let ends = [(1, one), (2, other)];
            for (end, (device, namespace, ..)) in ends {
                if let Some(name) = namespace {
                    ip(&format!("link set {device}{n} netns {name}"))?;
                }
                let within = within(namespace);
                ip(&format!(
                    "{within}addr add {}/30 dev {device}{n}",
                    host(network, end)
                ))?;
                ip(&format!("{within}link set {device}{n} up"))?;
            }
            for (end, (device, namespace, source, behind)) in ends {
                let (within, via) = (within(namespace), host(network, 3 - end));
                ip(&format!(
                    "{within}route add {behind}/32 via {via} dev {device}{n} src {source}"
                ))?;
            }
        }
        Ok(())
    }

    fn remove(&self) {
        // The wires go with the namespaces.
        for name in [&self.primary.name, &self.proxy.name] {
            let _ = ip(&format!("netns del {name}"));
        }
        let _ = ip(&format!("route del blackhole {}/32", self.primary.host));
        let _ = ip(&format!("addr del {}/32 dev lo", self.here));
    }

    /// From now on nothing leaves the primary's namespace towards us: whoever is there is gone without a word.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn silence(&self) -> Result<()> {
        ip(&format!(
            "-n {} route replace blackhole {}/32",
            self.primary.name, self.here
        ))
    }

    /// From now on nothing passes between the primary and us, without a word.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn cut(&self) -> Result<()> {
        ip(&format!("route replace blackhole {}/32", self.primary.host))?;
        self.silence()
    }
}

impl Drop for Divided {
    fn drop(&mut self) {
        self.remove();
    }
}

// === impl Place ===

impl Place {
    /// `program` and its arguments, so that it runs here.
    pub(crate) fn command(&self, program: &Path, args: Vec<String>) -> (PathBuf, Vec<String>) {
        let own = ["netns", "exec", &self.name, &program.display().to_string()].map(str::to_owned);
        ("ip".into(), own.into_iter().chain(args).collect())
    }
}

fn within(namespace: Option<&String>) -> String {
    namespace.map_or(String::new(), |name| format!("-n {name} "))
}

fn ip(words: &str) -> Result<()> {
    let told = Command::new("ip")
        .args(words.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .context("cannot run ip")?;
    ensure!(
        told.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&told.stderr).trim()
    );
    Ok(())
}
