//! The dashboard, before a Prometheus that has scraped a load and a failover: each expression has data, each metric is in
//! order, and the picture of it all is drawn.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use testkit::load::Load;
use testkit::port::Port;
use testkit::process::{Process, scratch};
use testkit::wait::wait_for;
use testkit::{Cluster, Flavor, Proxy, proxy};

use super::picture::{self, Drawn, Kind, Panel, Series};
use super::text;
use crate::tool::Tool;

/// Where the picture goes.
pub(super) const PICTURE: &str = "docs/dashboard.svg";

/// Where the dashboard is.
const DASHBOARD: &str = "deploy/grafana/slipring.json";

/// Where the metrics are told of.
const OPERATIONS: &str = "docs/OPERATIONS.md";

/// The load before the failover, and behind it.
const BEFORE: Duration = Duration::from_secs(25);
const BEHIND: Duration = Duration::from_secs(20);

/// What a rate is taken over, as Grafana would for a scrape each second.
const RATE_INTERVAL: &str = "5s";

/// A Prometheus that scrapes slipring each second.
struct Prometheus {
    port: Port,
    /// Ends with this.
    process: Process,
}

/// How many expressions have data.
pub(super) fn run(slipring: &Path) -> Result<usize> {
    let cluster = Cluster::builder(Flavor::Redis).start()?;
    // With everything that has a metric of its own.
    let proxy = Proxy::builder(slipring).sentinels(&cluster);
    let proxy = proxy.flag("--max-memory", "1gb").start()?;
    let prometheus = Prometheus::start(&proxy)?;
    let load = Load::builder(proxy.address()).start()?;
    std::thread::sleep(BEFORE);
    cluster.failover_planned()?;
    std::thread::sleep(BEHIND);
    drop(load.finish());

    let metrics = prometheus.metrics(&proxy)?;
    let rules = prometheus.rules()?;
    println!("Prometheus has {metrics} metrics, and evaluates {rules} rules");

    let dashboard = fs::read_to_string(crate::workspace().join(DASHBOARD))?;
    let dashboard: Value = serde_json::from_str(&dashboard).context(DASHBOARD)?;
    let panels = dashboard["panels"].as_array().context("a dashboard has panels")?;
    let mut drawn = Vec::new();
    for panel in panels {
        drawn.push(prometheus.answer(panel)?);
    }
    picture::draw(&drawn, &crate::workspace().join(PICTURE))?;
    drop(prometheus.process);
    Ok(drawn.iter().map(|drawn| drawn.series.len()).sum())
}

fn operations() -> Result<String> {
    fs::read_to_string(crate::workspace().join(OPERATIONS)).context(OPERATIONS)
}

/// The metrics of slipring's own that [`OPERATIONS`] names.
fn documented() -> Result<Vec<String>> {
    let text = operations()?;
    let (_, section) = text
        .split_once("\n### Metrics\n")
        .context("OPERATIONS tells of metrics")?;
    let rows = section.lines().skip_while(|line| !line.starts_with("| metric "));
    let first = rows
        .skip(2)
        .map_while(|row| row.strip_prefix("| ")?.split(" |").next());
    let names: Vec<_> = first
        .flat_map(|names| names.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect();
    ensure!(!names.is_empty(), "{OPERATIONS} names no metric");
    Ok(names)
}

// === impl Prometheus ===

impl Prometheus {
    fn start(proxy: &Proxy) -> Result<Self> {
        let port = Port::free()?;
        let folder = scratch("prometheus")?.keep();
        let file = folder.join("prometheus.yml");
        let rules = crate::workspace()
            .join("deploy/prometheus/rules.yaml")
            .canonicalize()?;
        let lines = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\nscrape_configs:\n  - job_name: slipring\n    \
             static_configs: [{{targets: [\"{}\"]}}]\n",
            rules.display(),
            proxy.admin_address(),
        );
        fs::write(&file, lines)?;
        let args = vec![
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", folder.join("data").display()),
            format!("--web.listen-address={}", port.address()),
        ];
        let process = Process::start(
            "prometheus",
            Path::new("/usr/bin/prometheus"),
            args,
            folder.join("log"),
        )?;
        process.wait_until("Prometheus", || match proxy::get(port.address(), "/-/ready")? {
            (200, _) => Ok(()),
            (status, body) => bail!("{status}: {body}"),
        })?;
        Ok(Self { port, process })
    }

    /// How many metrics there are: those on the page are those that [`OPERATIONS`] names, and all were scraped.
    fn metrics(&self, proxy: &Proxy) -> Result<usize> {
        let folder = scratch("metrics")?;
        let (file, page) = (folder.path().join("page"), proxy.metrics()?);
        fs::write(&file, &page)?;
        Tool::new("sh", &["-c", "promtool check metrics < \"$0\"", text(&file)]).output()?;
        let metrics = documented()?;
        for line in page
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE slipring_"))
        {
            let name = line.split(' ').next().unwrap_or_default();
            ensure!(
                metrics.iter().any(|metric| metric == name),
                "slipring_{name} is not in {OPERATIONS}"
            );
        }
        for metric in &metrics {
            let helped = page.contains(&format!("# HELP slipring_{metric} "));
            ensure!(helped, "slipring_{metric} has no HELP");
            self.series(&format!("{{__name__=~\"slipring_{metric}(_bucket)?\"}}"), "")?;
        }
        Ok(metrics.len())
    }

    /// How many rules there are, all evaluated without a fault; a failover is what they tell of.
    fn rules(&self) -> Result<usize> {
        let (status, body) = proxy::get(self.port.address(), "/api/v1/rules")?;
        ensure!(status == 200, "{body}");
        let body: Value = serde_json::from_str(&body)?;
        let groups = body["data"]["groups"].as_array().context("groups of rules")?;
        let rules = groups.iter().flat_map(|group| group["rules"].as_array());
        let rules: Vec<_> = rules.flatten().collect();
        let told = operations()?;
        for rule in &rules {
            let name = rule["name"].as_str().context("a rule has a name")?;
            ensure!(rule["health"] == "ok", "{name}: {}", rule["lastError"]);
            ensure!(
                told.contains(&format!("`{name}`")),
                "{name} is not in {OPERATIONS}"
            );
            match (rule["type"].as_str(), name) {
                (Some("recording"), _) => drop(self.series(name, "")?),
                (_, "SlipringFailover") => ensure!(rule["state"] == "firing", "{name}: {}", rule["state"]),
                _ => ensure!(rule["state"] != "firing", "{name} fires"),
            }
        }
        Ok(rules.len())
    }

    /// What a panel shows.
    fn answer(&self, panel: &Value) -> Result<Drawn> {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let place = |side: &str| panel["gridPos"][side].as_u64().context("a panel has a place");
        let described = Panel {
            title: word(&panel["title"]),
            unit: word(&panel["fieldConfig"]["defaults"]["unit"]),
            words: words(panel),
            kind: match (panel["type"].as_str(), panel["options"]["textMode"].as_str()) {
                (Some("stat"), Some("name")) => Kind::Name,
                (Some("stat"), _) => Kind::Stat,
                (Some("timeseries"), _) => Kind::Lines,
                (kind, _) => bail!("{}: no way to draw {kind:?}", panel["title"]),
            },
            place: [place("x")?, place("y")?, place("w")?, place("h")?],
        };
        let mut series = Vec::new();
        for target in panel["targets"].as_array().context("a panel has targets")? {
            let expression = word(&target["expr"])
                .replace("$__rate_interval", RATE_INTERVAL)
                .replace("$job", ".*")
                .replace("$instance", ".*");
            series.push(self.series(&expression, &word(&target["legendFormat"]))?);
        }
        Ok(Drawn {
            panel: described,
            series,
        })
    }

    /// All that an expression gave from the load's beginning to now.
    fn series(&self, expression: &str, legend: &str) -> Result<Vec<Series>> {
        let mut found = Vec::new();
        wait_for(expression, Duration::from_secs(10), || {
            let now = SystemTime::UNIX_EPOCH.elapsed()?.as_secs();
            let from = now - (BEFORE + BEHIND).as_secs();
            let path = format!(
                "/api/v1/query_range?query={}&start={from}&end={now}&step=1",
                encoded(expression)
            );
            let (status, body) = proxy::get(self.port.address(), &path)?;
            ensure!(status == 200, "{expression}: {body}");
            let body: Value = serde_json::from_str(&body)?;
            let rows = body["data"]["result"]
                .as_array()
                .context("Prometheus answers rows")?;
            found = rows.iter().map(|row| read(row, legend, from)).collect();
            let known = found.iter().any(|series| !series.points.is_empty());
            ensure!(known, "{expression}: no data");
            Ok(())
        })?;
        Ok(found)
    }
}

/// The values that a panel puts in words.
fn words(panel: &Value) -> Vec<(String, String)> {
    let mappings = panel["fieldConfig"]["defaults"]["mappings"].as_array();
    let options = mappings
        .into_iter()
        .flatten()
        .filter_map(|mapping| mapping["options"].as_object());
    let word = |(value, word): (&String, &Value)| Some((value.clone(), word["text"].as_str()?.to_owned()));
    options.flatten().filter_map(word).collect()
}

/// One row of an answer, named as `legend` says.
fn read(row: &Value, legend: &str, from: u64) -> Series {
    let mut name = legend.to_owned();
    for (label, value) in row["metric"].as_object().into_iter().flatten() {
        name = name.replace(&format!("{{{{{label}}}}}"), value.as_str().unwrap_or_default());
    }
    let points = row["values"].as_array().into_iter().flatten();
    let points = points.filter_map(|point| {
        let value: f64 = point[1].as_str()?.parse().ok()?;
        Some((point[0].as_f64()? - from as f64, value))
    });
    Series {
        name,
        points: points.filter(|(_, value)| value.is_finite()).collect(),
    }
}

fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}
