//! `slipring status`: what a running slipring says of itself on its metrics endpoint, on one screen.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use proxy_core::TcpDial;
use sentinel_watcher::{Dial as _, HostPort};
use serde_json::{Value, json};

/// Asks a running slipring how it fares.
#[derive(Parser)]
#[command(name = "slipring status")]
struct Asked {
    /// Its --metrics-listen.
    #[arg(
        long,
        value_name = "IP:PORT",
        default_value = "127.0.0.1:9379",
        env = "SLIPRING_METRICS_LISTEN"
    )]
    metrics_listen: SocketAddr,

    /// For machines.
    #[arg(long)]
    json: bool,
}

/// For a connection, and for each answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks, as the arguments behind `status` say, and prints: success if it is ready.
pub(crate) async fn run(arguments: Vec<OsString>) -> Result<ExitCode> {
    let asked = match Asked::try_parse_from(arguments) {
        Ok(asked) => asked,
        Err(usage) => {
            usage.print()?;
            return Ok(ExitCode::from(if usage.use_stderr() {
                crate::EXIT_USAGE
            } else {
                0
            }));
        }
    };
    let known = all(asked.metrics_listen).await.with_context(|| {
        format!(
            "nothing answers at {}: is slipring running, with that --metrics-listen?",
            asked.metrics_listen
        )
    })?;
    if asked.json {
        println!("{known:#}");
    } else {
        print!("{}", screen(asked.metrics_listen, &known));
    }
    let ready = known["ready"] == json!(true);
    Ok(if ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Everything that it tells, as one object.
async fn all(at: SocketAddr) -> Result<Value> {
    let (status, readyz) = get(at, "/readyz").await?;
    let (_, topology) = get(at, "/topology").await?;
    let (_, failovers) = get(at, "/failovers").await?;
    let (_, metrics) = get(at, "/metrics").await?;
    Ok(json!({
        "ready": status == 200,
        "readyz": readyz.trim_end(),
        "masters": serde_json::from_str::<Value>(&topology)?["masters"],
        "failovers": serde_json::from_str::<Value>(&failovers)?["masters"],
        "metrics": sums(&metrics),
    }))
}

/// Each metric, summed over its labels.
fn sums(metrics: &str) -> BTreeMap<&str, f64> {
    let mut sums = BTreeMap::new();
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let value = line
            .rsplit_once(' ')
            .and_then(|(_, value)| value.parse::<f64>().ok());
        if let (false, Some(value)) = (name.ends_with("_bucket"), value) {
            *sums.entry(name.trim_start_matches("slipring_")).or_default() += value;
        }
    }
    sums
}

async fn get(at: SocketAddr, path: &str) -> Result<(u16, String)> {
    let dial = TcpDial { timeout: PATIENCE };
    let io = dial.dial(&HostPort::new(&at.ip().to_string(), at.port())).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    let request = Request::get(path)
        .header("host", "slipring")
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::select! {
        biased;
        answer = tokio::time::timeout(PATIENCE, exchange) => answer?,
        ended = connection => {
            ended?;
            anyhow::bail!("it closes the connection")
        }
    }
}

fn screen(at: SocketAddr, known: &Value) -> String {
    let mut out = String::new();
    heading(&mut out, at, known);
    for master in known["masters"].as_array().into_iter().flatten() {
        let records = known["failovers"].as_array().into_iter().flatten();
        let last = records
            .filter(|record| record["master"] == master["master"])
            .find_map(|record| record["failovers"].get(0));
        paragraph(&mut out, master, last);
    }
    out
}

fn heading(out: &mut String, at: SocketAddr, known: &Value) {
    let metric = |name: &str| known["metrics"][name].as_f64().unwrap_or(0.0);
    let ready = if known["ready"] == json!(true) {
        "ready"
    } else {
        "NOT READY"
    };
    let _ = writeln!(out, "slipring at {at}: {ready}");
    let _ = writeln!(
        out,
        "  clients {}, accepted {}, refused {}; connections to nodes {}; waiting commands {}; unknown outcomes {}",
        metric("clients"),
        metric("clients_accepted_total"),
        metric("clients_refused_total"),
        metric("backend_connections"),
        metric("held_commands"),
        metric("unknown_outcomes_total"),
    );
}

/// One master, and the last of its failovers.
fn paragraph(out: &mut String, master: &Value, last: Option<&Value>) {
    let shard = &master["shards"][0];
    let primary = &shard["primary"]["address"];
    let primary = if primary.is_null() {
        "none".to_owned()
    } else {
        text(primary)
    };
    let name = text(&master["master"]);
    let _ = writeln!(out, "master {name}: {}, primary {primary}", text(&shard["phase"]));
    if !master["problem"].is_null() {
        let _ = writeln!(out, "  PROBLEM   {}", text(&master["problem"]));
    }
    for replica in shard["replicas"].as_array().into_iter().flatten() {
        let usable = if replica["usable"] == json!(true) {
            "readable"
        } else {
            "not readable"
        };
        let lag = match &replica["lag_bytes"] {
            Value::Null => "how far behind is not known".to_owned(),
            lag => format!("{lag} bytes behind"),
        };
        let _ = writeln!(out, "  replica   {}: {usable}, {lag}", text(&replica["address"]));
    }
    for sentinel in master["sentinels"].as_array().into_iter().flatten() {
        let (address, state) = (text(&sentinel["address"]), text(&sentinel["state"]));
        let _ = writeln!(out, "  sentinel  {address}: {state}");
    }
    if let Some(last) = last {
        let _ = writeln!(
            out,
            "  failover  the last: {}, {}, held for {} ms",
            text(&last["kind"]),
            text(&last["end"]),
            last["held_ms"]
        );
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_names_what_matters() {
        let known = json!({
            "ready": false,
            "masters": [{
                "master": "m",
                "problem": "no sentinel is reachable",
                "shards": [{
                    "phase": "moving",
                    "primary": {"address": "a:1"},
                    "replicas": [
                        {"address": "b:1", "usable": true, "lag_bytes": 7},
                        {"address": "c:1", "usable": false, "lag_bytes": null},
                    ],
                }],
                "sentinels": [{"address": "s:1", "state": "watching"}],
            }],
            "failovers": [{"master": "m", "failovers": [{"kind": "crash", "end": "confirmed", "held_ms": 9}]}],
            "metrics": sums("# HELP x y\nslipring_clients{listener=\"1\"} 3\nslipring_clients{listener=\"2\"} 4\n"),
        });
        let screen = screen(([127, 0, 0, 1], 9379).into(), &known);
        for part in [
            "127.0.0.1:9379: NOT READY",
            "clients 7,",
            "master m: moving, primary a:1",
            "PROBLEM   no sentinel is reachable",
            "b:1: readable, 7 bytes behind",
            "c:1: not readable, how far behind is not known",
            "s:1: watching",
            "crash, confirmed, held for 9 ms",
        ] {
            assert!(screen.contains(part), "{part} is not in\n{screen}");
        }
    }
}
