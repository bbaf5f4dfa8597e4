//! What the nodes say, and whether one of them could be the next primary.

use std::collections::BTreeMap;

use resp_codec::Value;
use sentinel_watcher::{Dial, HostPort, Manners};

use super::sentinels::View;
use super::{Checked, Finding, password_remedy, reach_remedy};
use crate::inquiry::{Failure, ask};

/// One node's answers.
struct Node {
    /// `master` or `slave`.
    role: String,
    /// The section `replication` of INFO.
    info: BTreeMap<String, String>,
    /// Of CONFIG GET; empty where the user may not ask.
    config: BTreeMap<String, String>,
    /// It answers PING to nobody in particular.
    open: bool,
}

const FLAGS: [&str; 2] = ["--username", "--password-file"];

/// Asks the primary and the replicas that are announced.
pub(super) async fn look(checked: &Checked<'_>, dial: &dyn Dial, view: &View, found: &mut Vec<Finding>) {
    let primary = match node(checked, dial, &view.primary).await {
        Ok(primary) => Some(primary),
        Err((what, remedy)) => {
            found.push(Finding::Wrong(
                format!("primary {}: {what}", view.primary),
                remedy,
            ));
            None
        }
    };
    if let Some(primary) = &primary {
        judge_primary(&view.primary, primary, view.replicas.len(), found);
    }
    let mut promotable = 0;
    for address in &view.replicas {
        match node(checked, dial, address).await {
            Ok(replica) => promotable += usize::from(judge_replica(address, &replica, found)),
            Err((what, remedy)) => {
                found.push(Finding::Wrong(format!("replica {address}: {what}"), remedy));
            }
        }
    }
    if view.replicas.is_empty() {
        found.push(Finding::Wrong(
            "the primary has no replica: there is nobody to fail over to".to_owned(),
            "start one with replicaof, and give sentinels a moment to notice".to_owned(),
        ));
    } else if promotable == 0 {
        found.push(Finding::Wrong(
            "no replica can be promoted: there is nobody to fail over to".to_owned(),
            "see what is said of each; CONFIG SET replica-priority 100 where it is 0".to_owned(),
        ));
    }
}

fn judge_primary(at: &HostPort, primary: &Node, replicas: usize, found: &mut Vec<Finding>) {
    if primary.role != "master" {
        found.push(Finding::Wrong(
            format!("primary {at}: it says that it is a replica"),
            "wait for a failover to end; else SENTINEL RESET, or REPLICAOF NO ONE there".to_owned(),
        ));
        return;
    }
    found.push(Finding::Fine(format!(
        "primary {at} serves, {replicas} replicas are known"
    )));
    judge_config(at, primary, found);
    let number = |name: &str| {
        primary
            .info
            .get(name)
            .and_then(|value| value.parse::<usize>().ok())
    };
    let connected = number("connected_slaves").unwrap_or(0);
    let Some(wanted) = setting(primary, "min-replicas-to-write") else {
        return;
    };
    match wanted.parse::<usize>().unwrap_or(0) {
        0 => found.push(Finding::Risk(
            format!("primary {at}: min-replicas-to-write is 0: cut off from its sentinels, it goes on taking writes that are lost"),
            "CONFIG SET min-replicas-to-write 1, on all nodes".to_owned(),
        )),
        wanted if wanted > connected => found.push(Finding::Wrong(
            format!("primary {at}: min-replicas-to-write is {wanted}, and {connected} replicas are connected: it refuses writes"),
            format!("CONFIG SET min-replicas-to-write {}, or bring the replicas back", connected.max(1)),
        )),
        wanted if wanted == replicas && replicas > 0 => found.push(Finding::Risk(
            format!("primary {at}: min-replicas-to-write is {wanted} of {replicas} replicas: where one is lost, it refuses writes"),
            "run one replica more, or lower it".to_owned(),
        )),
        _ => {}
    }
}

/// True: it could be promoted.
fn judge_replica(at: &HostPort, replica: &Node, found: &mut Vec<Finding>) -> bool {
    judge_config(at, replica, found);
    let info = |name: &str| replica.info.get(name).map(String::as_str).unwrap_or_default();
    let before = found.len();
    if replica.role != "slave" {
        found.push(Finding::Wrong(
            format!("replica {at}: it says that it is a primary"),
            "wait for the sentinels to reconfigure it; else REPLICAOF there".to_owned(),
        ));
    } else if info("master_link_status") != "up" {
        found.push(Finding::Wrong(
            format!("replica {at}: its link to the primary is down"),
            "check its replicaof, and its masteruser and masterauth".to_owned(),
        ));
    }
    if info("slave_priority") == "0" {
        found.push(Finding::Risk(
            format!("replica {at}: its replica-priority is 0: it is never promoted"),
            "CONFIG SET replica-priority 100, unless that is meant".to_owned(),
        ));
    }
    if setting(replica, "replica-read-only") == Some("no") {
        found.push(Finding::Risk(
            format!("replica {at}: replica-read-only is no: writes to it are lost"),
            "CONFIG SET replica-read-only yes".to_owned(),
        ));
    }
    let promotable = found.len() == before;
    if promotable {
        found.push(Finding::Fine(format!("replica {at} is in sync")));
    }
    promotable
}

/// What is asked of every node.
fn judge_config(at: &HostPort, node: &Node, found: &mut Vec<Finding>) {
    if node.config.is_empty() {
        found.push(Finding::Risk(
            format!("{at}: the user of --username may not ask CONFIG GET: its settings are not checked"),
            "ask as a user that may, for this check".to_owned(),
        ));
    }
    if !node.open && setting(node, "masterauth") == Some("") {
        found.push(Finding::Wrong(
            format!("{at}: it wants a password, and has no masterauth: as a replica it could not follow another one"),
            "CONFIG SET masterauth (and masteruser), on all nodes".to_owned(),
        ));
    }
}

fn setting<'a>(node: &'a Node, name: &str) -> Option<&'a str> {
    node.config.get(name).map(String::as_str)
}

async fn node(checked: &Checked<'_>, dial: &dyn Dial, at: &HostPort) -> Result<Node, (String, String)> {
    let manners = checked.node_manners();
    let questions: [&[&[u8]]; 3] = [
        &[b"ROLE"],
        &[b"INFO", b"replication"],
        &[b"CONFIG", b"GET", b"m*"],
    ];
    let answers = ask(dial, at, &manners, &questions).await;
    let mut answers = answers.map_err(|failure| match failure {
        Failure::Unreachable(why) => {
            let remedy = reach_remedy(&why, at, ("--node-tls", checked.node_tls));
            let remedy = format!(
                "{remedy} If sentinels announce an address that means nothing here: --address-map {at}=…"
            );
            ("cannot be reached at the announced address".to_owned(), remedy)
        }
        Failure::Auth(words) => (
            "does not let slipring in".to_owned(),
            password_remedy(&words, FLAGS),
        ),
    })?;
    if let Some(error) = answers.first().and_then(Value::as_error) {
        return Err(("does not say who it is".to_owned(), password_remedy(error, FLAGS)));
    }
    let more: [&[&[u8]]; 1] = [&[b"CONFIG", b"GET", b"replica-*"]];
    answers.extend(ask(dial, at, &manners, &more).await.unwrap_or_default());
    let stranger = Manners {
        credentials: None,
        ..manners
    };
    let open = ask(dial, at, &stranger, &[&[b"PING"]]).await;
    let [role, info, config @ ..] = &answers[..] else {
        return Err(("answers too little".to_owned(), "is it a Redis node?".to_owned()));
    };
    let role = role
        .as_array()
        .and_then(|role| role.first()?.as_str())
        .unwrap_or_default();
    let info = info.as_str().unwrap_or_default().lines();
    let info = info.filter_map(|line| line.split_once(':'));
    Ok(Node {
        role: role.to_owned(),
        info: info
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        config: config.iter().flat_map(settings).collect(),
        open: open.is_ok_and(|replies| replies.first().is_some_and(|reply| reply.as_error().is_none())),
    })
}

/// The answer to CONFIG GET. Passwords in it are only compared with nothing.
fn settings(answer: &Value) -> Vec<(String, String)> {
    let words = answer.as_array().unwrap_or_default();
    let pairs = words.chunks_exact(2).filter_map(|pair| match pair {
        [name, value] => Some((name.as_str()?.to_owned(), value.as_str()?.to_owned())),
        _ => None,
    });
    pairs.collect()
}
