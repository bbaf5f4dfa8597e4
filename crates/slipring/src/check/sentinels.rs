//! What the sentinels say, and whether they could fail over.

use std::collections::{BTreeMap, BTreeSet};

use resp_codec::Value;
use sentinel_watcher::{Dial, HostPort};

use super::{Checked, Finding, password_remedy, reach_remedy};
use crate::inquiry::{Failure, ask};

/// The master as most sentinels see it.
pub(super) struct View {
    pub(super) primary: HostPort,
    pub(super) replicas: Vec<HostPort>,
}

/// One sentinel's answers.
struct Report {
    primary: HostPort,
    replicas: Vec<HostPort>,
    others: Vec<HostPort>,
    quorum: i64,
    down_after_ms: i64,
    flags: String,
}

/// Sentinels asked at most, as many as the watcher follows.
const SENTINELS: usize = 32;

/// A primary that is silent for less is often only busy.
const HASTY_MS: i64 = 1000;

/// Clients wait that long before anybody acts.
const SLOW_MS: i64 = 60_000;

const FLAGS: [&str; 2] = ["--sentinel-username", "--sentinel-password-file"];

/// Asks the configured sentinels and those that they name.
pub(super) async fn look(checked: &Checked<'_>, dial: &dyn Dial, found: &mut Vec<Finding>) -> Option<View> {
    let mut known: BTreeSet<HostPort> = checked.watched.sentinels.iter().cloned().collect();
    let mut asked = BTreeSet::new();
    let mut reports = BTreeMap::new();
    while let Some(sentinel) = known.difference(&asked).next().cloned() {
        asked.insert(sentinel.clone());
        let configured = checked.watched.sentinels.contains(&sentinel);
        match report(checked, dial, &sentinel).await {
            Ok(report) => {
                known.extend(
                    report
                        .others
                        .iter()
                        .take(SENTINELS.saturating_sub(known.len()))
                        .cloned(),
                );
                let primary = &report.primary;
                found.push(Finding::Fine(format!(
                    "sentinel {sentinel} names {primary} as primary"
                )));
                reports.insert(sentinel, report);
            }
            Err((what, remedy)) => {
                let remedy = if configured {
                    remedy
                } else {
                    format!(
                        "{remedy} It is announced by another sentinel: sentinel announce-ip may be wrong there"
                    )
                };
                found.push(Finding::Wrong(format!("sentinel {sentinel}: {what}"), remedy));
            }
        }
    }
    agreement(&reports, found);
    let (_, best) = reports.iter().max_by_key(|(_, report)| {
        reports
            .values()
            .filter(|other| other.primary == report.primary)
            .count()
    })?;
    judge(&reports, found);
    let reach = |address: &HostPort| checked.watched.address_map.reach(address.clone());
    Some(View {
        primary: reach(&best.primary),
        replicas: best.replicas.iter().map(reach).collect(),
    })
}

/// Do they speak of the same thing?
fn agreement(reports: &BTreeMap<HostPort, Report>, found: &mut Vec<Finding>) {
    let primaries: BTreeSet<_> = reports.values().map(|report| &report.primary).collect();
    if primaries.len() > 1 {
        let names: Vec<_> = primaries.iter().map(ToString::to_string).collect();
        found.push(Finding::Wrong(
            format!("sentinels disagree about the primary: {}", names.join(", ")),
            "wait for a failover to end; else SENTINEL REMOVE and MONITOR the master where it is wrong"
                .to_owned(),
        ));
    }
    let settings: BTreeSet<_> = reports
        .values()
        .map(|report| (report.quorum, report.down_after_ms))
        .collect();
    if settings.len() > 1 {
        found.push(Finding::Risk(
            "sentinels differ in quorum or down-after-milliseconds".to_owned(),
            "SENTINEL SET the same on all of them".to_owned(),
        ));
    }
}

/// Could they fail over, and would they when they should?
fn judge(reports: &BTreeMap<HostPort, Report>, found: &mut Vec<Finding>) {
    let count = reports
        .values()
        .map(|report| report.others.len() + 1)
        .max()
        .unwrap_or(0);
    let voters = i64::try_from(count).unwrap_or(i64::MAX);
    if count < 3 {
        found.push(Finding::Risk(
            format!("there are {count} sentinels: where one is lost, none can be elected"),
            "run three of them, on machines of their own".to_owned(),
        ));
    }
    let majority = voters / 2 + 1;
    for (sentinel, report) in reports {
        let Report {
            quorum,
            down_after_ms,
            flags,
            ..
        } = report;
        if *quorum > voters {
            found.push(Finding::Wrong(
                format!(
                    "sentinel {sentinel}: the quorum is {quorum}, of {voters} sentinels: it never fails over"
                ),
                format!("SENTINEL SET … quorum {majority}"),
            ));
        } else if *quorum == 1 && voters > 1 {
            found.push(Finding::Risk(
                format!(
                    "sentinel {sentinel}: the quorum is 1: whoever loses sight of the primary fails over"
                ),
                format!("SENTINEL SET … quorum {majority}"),
            ));
        }
        if *down_after_ms < HASTY_MS {
            found.push(Finding::Risk(
                format!("sentinel {sentinel}: down-after-milliseconds is {down_after_ms}: a primary that is busy for a moment is replaced"),
                "SENTINEL SET … down-after-milliseconds 5000".to_owned(),
            ));
        } else if *down_after_ms > SLOW_MS {
            found.push(Finding::Risk(
                format!("sentinel {sentinel}: down-after-milliseconds is {down_after_ms}: clients wait that long when the primary dies"),
                "SENTINEL SET … down-after-milliseconds 5000".to_owned(),
            ));
        }
        let down = flags.split(',').find(|flag| ["s_down", "o_down"].contains(flag));
        if let Some(down) = down {
            found.push(Finding::Wrong(
                format!("sentinel {sentinel} cannot reach the primary ({down})"),
                format!(
                    "look at {}, and at sentinel auth-pass and auth-user",
                    report.primary
                ),
            ));
        }
    }
}

async fn report(
    checked: &Checked<'_>,
    dial: &dyn Dial,
    sentinel: &HostPort,
) -> Result<Report, (String, String)> {
    let master = checked.watched.master.as_bytes();
    let questions: [&[&[u8]]; 5] = [
        &[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", master],
        &[b"SENTINEL", b"MASTER", master],
        &[b"SENTINEL", b"REPLICAS", master],
        &[b"SENTINEL", b"SENTINELS", master],
        &[b"SENTINEL", b"MASTERS"],
    ];
    let answers = ask(dial, sentinel, &checked.sentinel_manners(), &questions).await;
    let answers = answers.map_err(|failure| match failure {
        Failure::Unreachable(why) => {
            let tls = ("--sentinel-tls", checked.sentinel_tls);
            let remedy = reach_remedy(&why, sentinel, tls);
            ("cannot be asked".to_owned(), remedy)
        }
        Failure::Auth(words) => (
            "does not let slipring in".to_owned(),
            password_remedy(&words, FLAGS),
        ),
    })?;
    let [address, state, replicas, others, masters] = &answers[..] else {
        return Err(("answers too little".to_owned(), "is it a sentinel?".to_owned()));
    };
    if let Some(error) = address.as_error() {
        return Err(if error.contains("unknown command") {
            let what = "is no sentinel, but a node";
            (
                what.to_owned(),
                "--sentinels takes the sentinels' addresses, port 26379 as a rule".to_owned(),
            )
        } else {
            ("refuses the question".to_owned(), password_remedy(error, FLAGS))
        });
    }
    let Some(primary) = pair(address) else {
        let names = masters.as_array().unwrap_or_default().iter();
        let names: Vec<_> = names.filter_map(|master| master.get("name")?.as_str()).collect();
        return Err((
            format!("knows no master named {:?}", checked.watched.master),
            format!("set --master to one that it watches: {}", names.join(", ")),
        ));
    };
    let number = |field| state.get(field).and_then(Value::as_int).unwrap_or(0);
    let instances = |list: &Value| {
        list.as_array()
            .unwrap_or_default()
            .iter()
            .filter_map(instance)
            .collect()
    };
    Ok(Report {
        primary,
        replicas: instances(replicas),
        others: instances(others),
        quorum: number("quorum"),
        down_after_ms: number("down-after-milliseconds"),
        flags: state
            .get("flags")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
    })
}

fn pair(address: &Value) -> Option<HostPort> {
    let [host, port] = address.as_array()? else {
        return None;
    };
    Some(HostPort::new(host.as_str()?, u16::try_from(port.as_int()?).ok()?))
}

fn instance(entry: &Value) -> Option<HostPort> {
    let port = u16::try_from(entry.get("port")?.as_int()?).ok()?;
    Some(HostPort::new(entry.get("ip")?.as_str()?, port))
}
