//! What slipring tells of a failover: in the log, at `/failovers`, to `PROXY SHOW FAILOVERS` and in the metrics the same.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testkit::Proxy;
use testkit::load::{History, Kind};

use super::support::ask;

/// All that is told of a switch during which clients wrote.
const NUMBERS: [&str; 12] = [
    "number",
    "began_unix_ms",
    "candidate_ms",
    "promoted_ms",
    "held_ms",
    "fenced_ms",
    "first_write_ms",
    "ended_ms",
    "commands_held",
    "commands_resent",
    "outcomes_unknown",
    "connections_cut",
];
const WORDS: [&str; 6] = ["kind", "end", "from", "to", "first_sign", "candidate"];

/// The names by which the log's line tells the same.
const LOGGED: [(&str, &str); 16] = [
    ("number", "number"),
    ("kind", "kind"),
    ("end", "end"),
    ("from", "from"),
    ("to", "to"),
    ("first_sign", "first_sign"),
    ("held_ms", "held_ms"),
    ("candidate_ms", "candidate_ms"),
    ("promoted_ms", "promoted_ms"),
    ("fenced_ms", "fenced_ms"),
    ("first_write_ms", "first_write_ms"),
    ("ended_ms", "ended_ms"),
    ("held", "commands_held"),
    ("resent", "commands_resent"),
    ("unknown", "outcomes_unknown"),
    ("cut", "connections_cut"),
];

/// The record of the only switch so far, once it is complete: it must be of this kind, tell a story in order, and be told
/// the same everywhere.
pub(crate) fn told_failover(proxy: &Proxy, kind: &str) -> Result<Value> {
    let (mut told, mut line) = (Value::Null, String::new());
    proxy.process().wait_until("the record of the failover", || {
        // What it cost is settled when it is logged.
        let number = only_switch(proxy)?["number"].clone();
        let logged = format!("primary switched master=\"mymaster\" number={number} ");
        let log = proxy.process().log();
        let found = log.lines().find(|line| line.contains(&logged));
        line = found.with_context(|| format!("no line {logged}"))?.to_owned();
        told = only_switch(proxy)?;
        Ok(())
    })?;
    check_story(&told, kind)?;
    for (name, field) in LOGGED {
        let value = told[field].to_string();
        let shown = [
            format!(" {name}={value} "),
            format!(" {name}={} ", value.trim_matches('"')),
        ];
        let line = format!("{line} ");
        ensure!(
            shown.iter().any(|shown| line.contains(shown)),
            "no {name}={value} in {line}"
        );
    }
    check_shown(proxy, &told)?;
    check_metrics(proxy, &told)?;
    Ok(told)
}

/// Who waited when the hold ended is among those that the record counts.
pub(crate) fn counts_who_waited(told: &Value, history: &History) -> Result<()> {
    let ended = UNIX_EPOCH + Duration::from_millis(at(told, "began_unix_ms")? + at(told, "held_ms")?);
    let ended = Instant::now() - SystemTime::now().duration_since(ended)?;
    let waiting = history.operations.iter().filter(|one| {
        one.sent < ended && one.done > ended && !matches!(one.kind, Kind::Dequeue | Kind::Receive)
    });
    let clients: BTreeSet<_> = waiting.map(|one| one.client).collect();
    ensure!(!clients.is_empty(), "nobody waited: it proves nothing");
    let held = at(told, "commands_held")?;
    ensure!(
        held >= clients.len() as u64,
        "{} clients waited: {told:#}",
        clients.len()
    );
    Ok(())
}

fn only_switch(proxy: &Proxy) -> Result<Value> {
    let (_, page) = proxy.get("/failovers")?;
    let page: Value = serde_json::from_str(&page)?;
    let records = page["masters"][0]["failovers"].as_array().context("no list")?;
    let mut switches = records.iter().filter(|record| record["to"].is_string());
    let told = switches.next().context("no switch is told of")?;
    ensure!(switches.next().is_none(), "more than one: {records:#?}");
    ensure!(told["end"] == "confirmed", "not over: {told:#}");
    Ok(told.clone())
}

fn at(told: &Value, name: &str) -> Result<u64> {
    let number = told[name].as_u64();
    number.with_context(|| format!("no {name}: {told:#}"))
}

fn check_story(told: &Value, kind: &str) -> Result<()> {
    let at = |name| at(told, name);
    let fields = told.as_object().context("a record")?;
    let known = |name: &String| NUMBERS.contains(&name.as_str()) || WORDS.contains(&name.as_str());
    ensure!(
        fields.keys().all(known),
        "more than OPERATIONS tells of: {told:#}"
    );
    for name in NUMBERS {
        at(name)?;
    }
    ensure!(WORDS.iter().all(|name| told[*name].is_string()), "{told:#}");
    ensure!(told["kind"] == kind, "{told:#}");
    ensure!(
        told["candidate"] == told["to"] && told["from"] != told["to"],
        "{told:#}"
    );
    // Each worker shuts the old primary out before it writes to the new one, but none waits for the others: the first
    // write of one may precede the last fence.
    for then in ["fenced_ms", "first_write_ms", "ended_ms"] {
        let order = ["candidate_ms", "promoted_ms", then];
        let moments = order.into_iter().map(at).collect::<Result<Vec<_>>>()?;
        ensure!(moments.is_sorted(), "{told:#}");
    }
    ensure!(at("held_ms")? == at("promoted_ms")?, "{told:#}");
    let ended = Duration::from_millis(at("began_unix_ms")? + at("ended_ms")?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    ensure!(
        now >= ended && now < ended + Duration::from_secs(600),
        "at {now:?}: {told:#}"
    );
    Ok(())
}

fn check_shown(proxy: &Proxy, told: &Value) -> Result<()> {
    let shown = ask(&mut proxy.client()?, "PROXY SHOW FAILOVERS")?.texts();
    let number = format!(" number={} ", told["number"]);
    let line = shown.iter().find(|line| line.contains(&number));
    let line = format!("{} ", line.with_context(|| format!("no{number}in {shown:?}"))?);
    for (name, value) in told.as_object().context("a record")? {
        let value = value.to_string();
        let bare = value.trim_matches('"');
        let value = if bare.contains(' ') { &value } else { bare };
        ensure!(
            line.contains(&format!(" {name}={value} ")),
            "no {name}={value} in {line}"
        );
    }
    Ok(())
}

fn check_metrics(proxy: &Proxy, told: &Value) -> Result<()> {
    let metric = |name: &str, labels: &[&str]| proxy.metric(&format!("slipring_{name}"), labels);
    let kind = format!("kind={}", told["kind"]);
    for (name, labels) in [
        ("failovers_total", &[][..]),
        ("failovers_total", &[kind.as_str()]),
        ("failover_duration_seconds_count", &[]),
    ] {
        let counted = metric(name, labels)?;
        ensure!(counted == 1.0, "{name}{labels:?} is {counted}");
    }
    let promoted = at(told, "promoted_ms")?;
    for name in ["failover_duration_seconds_sum", "last_failover_duration_seconds"] {
        let millis = metric(name, &[])? * 1000.0;
        ensure!(
            (millis - promoted as f64).abs() <= 1.0,
            "{name} is {millis} ms: {told:#}"
        );
    }
    // They count the calm as well.
    for (name, field) in [
        ("hold_duration_seconds_count", "commands_held"),
        ("resends_total", "commands_resent"),
        ("unknown_outcomes_total", "outcomes_unknown"),
        ("fenced_connections_total", "connections_cut"),
    ] {
        let (total, of_it) = (metric(name, &[])?, at(told, field)?);
        ensure!(total as u64 >= of_it, "{name} is {total}: {told:#}");
    }
    let serves = metric("primary_info", &[&format!("address={}", told["to"])])?;
    ensure!(serves == 1.0, "another one serves: {told:#}");
    Ok(())
}
