//! `slipring check`: asks sentinels and nodes, with the flags that slipring would run with, whether all is well.
//!
//! ```text
//!  each sentinel (those that it names, too) ──> the master as it sees it ──> each node that is announced ──> findings
//! ```

mod nodes;
mod sentinels;

use std::fmt;
use std::process::ExitCode;

use sentinel_watcher::{HostPort, Manners, WatcherConfig, certificate_remedy};

use crate::config::Config;
use crate::dial::dials;

/// What was found: a line, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Fine(String),
    /// Works, and will hurt one day.
    Risk(String, String),
    /// Does not work, or a failover will not.
    Wrong(String, String),
}

/// What is to be asked, of whom, and as whom.
pub(super) struct Checked<'a> {
    pub(super) watched: &'a WatcherConfig,
    pub(super) node_tls: bool,
    pub(super) sentinel_tls: bool,
}

/// Asks everybody and prints what was found: success if nothing is wrong.
pub(crate) async fn run(config: &Config) -> ExitCode {
    let [node_dial, sentinel_dial] = dials(config);
    let mut findings = Vec::new();
    if let Some(fault) = &config.tls.out_of_date {
        let remedy = "renew it: a reload takes the new files, and refuses these".to_owned();
        findings.push(Finding::Wrong(fault.what(), remedy));
    }
    for watched in &config.masters {
        findings.push(Finding::Fine(format!("master {}", watched.master)));
        let checked = Checked {
            watched,
            node_tls: config.tls.node.is_some(),
            sentinel_tls: config.tls.sentinel.is_some(),
        };
        let view = sentinels::look(&checked, &*sentinel_dial, &mut findings).await;
        if let Some(view) = view {
            nodes::look(&checked, &*node_dial, &view, &mut findings).await;
        }
    }
    let wrong = findings
        .iter()
        .filter(|found| matches!(found, Finding::Wrong(..)))
        .count();
    let risks = findings
        .iter()
        .filter(|found| matches!(found, Finding::Risk(..)))
        .count();
    for finding in &findings {
        println!("{finding}");
    }
    println!("{wrong} wrong, {risks} to look at");
    if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

// === impl Checked ===

impl Checked<'_> {
    pub(super) fn sentinel_manners(&self) -> Manners {
        Manners {
            credentials: self.watched.sentinel_credentials.clone(),
            connect_timeout: self.watched.connect_timeout,
            answer_timeout: self.watched.node_timeout,
        }
    }

    pub(super) fn node_manners(&self) -> Manners {
        Manners {
            credentials: self.watched.node_credentials.clone(),
            ..self.sentinel_manners()
        }
    }
}

/// What mends a password that is refused or missing. `flags`: that of the user, and that of the password's file.
pub(super) fn password_remedy(words: &str, flags: [&str; 2]) -> String {
    let [user, file] = flags;
    if words.starts_with("NOAUTH") {
        format!("it wants a password: set {file}")
    } else if words.starts_with("NOPERM") {
        format!("its ACL must permit the user of {user} to ask")
    } else {
        format!("check {user} and {file}: {words}")
    }
}

/// What mends a server that cannot be reached. `tls`: the flag, and whether it is set.
pub(super) fn reach_remedy(why: &str, at: &HostPort, tls: (&str, bool)) -> String {
    let (flag, _) = tls;
    if let Some(remedy) = certificate_remedy(why, flag) {
        return format!("{why}: {remedy}");
    }
    match tls {
        (flag, true) => format!(
            "{why}: is something listening at {at}, does it speak TLS ({flag}), and does {flag}-ca-file vouch for it?"
        ),
        (flag, false) if why.contains("closes them") => {
            format!("{why}: it may speak TLS (set {flag}), or be full")
        }
        _ => format!("{why}: is something listening at {at}, and does the network let slipring through?"),
    }
}

// === impl Finding ===

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fine(what) => write!(f, "ok     {what}"),
            Self::Risk(what, remedy) => write!(f, "RISK   {what}\n       -> {remedy}"),
            Self::Wrong(what, remedy) => write!(f, "WRONG  {what}\n       -> {remedy}"),
        }
    }
}

#[cfg(test)]
mod tests;
