//! The house's own rules, held over `cargo metadata` and the sources: which crate may know which, which module may
//! name which, how long a file may be, and what no file may name.

#![expect(clippy::unwrap_used, reason = "all of it is a test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand};

/// For each product crate the workspace crates that it may build on.
const ARROWS: [(&str, &[&str]); 4] = [
    ("resp-codec", &[]),
    ("sentinel-watcher", &["resp-codec"]),
    ("proxy-core", &["resp-codec", "sentinel-watcher"]),
    ("slipring", &["resp-codec", "sentinel-watcher", "proxy-core"]),
];

/// Crates that exist for development, and that the product never builds on.
const DEVELOPMENT: [&str; 3] = ["testkit", "xtask", "slipring-benches"];

/// What only the binary knows.
const OF_THE_BINARY: [&str; 6] = [
    "clap",
    "hyper",
    "hyper-util",
    "http-body-util",
    "tracing-subscriber",
    "anyhow",
];

/// What the codec, which does no I/O, must not know.
const NOT_OF_THE_CODEC: [&str; 4] = ["tokio", "socket2", "mio", "tracing"];

/// Rarely past 500, says the style; past this a file is two. Its tests, which come last, are not counted.
const LONGEST_FILE: usize = 600;
const LONGEST_FILE_OF_TESTS: usize = 900;
const GENERATED: [&str; 1] = ["crates/resp-codec/src/spec/table.rs"];

/// In proxy-core session names route, and route names backend: the modules (file or folder) that may not be named by each.
const LAYERS: [(&str, &[&str]); 2] = [("backend", &["session"]), ("route", &["session"])];

/// Hosts of package registries and paths of single machines, in pieces, so that this file does not name them either.
const NOWHERE: [&str; 9] = [
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("static.crates", ".io"),
    concat!("index.crates", ".io"),
    concat!("registry.npm", "js"),
    concat!("deb.debian", ".org"),
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/home", "/"),
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// Every file that is ours, by its path in the workspace.
fn files() -> BTreeMap<String, PathBuf> {
    let root = workspace();
    let mut folders = vec![root.clone()];
    let mut files = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name());
            let is_built = [
                "target",
                ".git",
                "corpus",
                "artifacts",
                "coverage",
                "node_modules",
            ]
            .iter()
            .any(|skipped| name == *skipped);
            match entry.file_type().unwrap() {
                _ if is_built => {}
                kind if kind.is_dir() => folders.push(path),
                _ => {
                    let short = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                    files.insert(short, path);
                }
            }
        }
    }
    assert!(
        files.contains_key("Cargo.toml"),
        "the workspace is not where it should be"
    );
    files
}

fn sources() -> impl Iterator<Item = (String, String)> {
    let files = files().into_iter().filter(|(name, _)| name.ends_with(".rs"));
    files.map(|(name, path)| (name, fs::read_to_string(path).unwrap()))
}

fn metadata() -> Metadata {
    let manifest = workspace().join("Cargo.toml");
    MetadataCommand::new()
        .manifest_path(manifest)
        .features(CargoOpt::AllFeatures)
        .no_deps()
        .exec()
        .unwrap()
}

/// Dependencies of each crate of the workspace, without those for tests alone.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let normal = |package: &cargo_metadata::Package| {
        let kept = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind != DependencyKind::Development);
        kept.map(|dependency| dependency.name.clone()).collect()
    };
    metadata()
        .packages
        .iter()
        .map(|package| (package.name.to_string(), normal(package)))
        .collect()
}

fn assert_none(rule: &str, violations: Vec<String>) {
    assert!(violations.is_empty(), "{rule}:\n  {}", violations.join("\n  "));
}

#[test]
fn crates_name_only_what_is_below_them() {
    let all = dependencies();
    let ours: Vec<&String> = all.keys().collect();
    for (package, allowed) in ARROWS {
        let violations = all[package]
            .iter()
            .filter(|name| ours.contains(name) && !allowed.contains(&name.as_str()));
        assert_none(
            &format!("{package} may build only on {allowed:?}"),
            violations.cloned().collect(),
        );
    }
    // What is for development may know all of the product (the simulator runs the real core), but the binary.
    for package in DEVELOPMENT {
        let violations = all[package].iter().filter(|name| *name == "slipring");
        assert_none(
            &format!("{package} drives the binary from outside"),
            violations.cloned().collect(),
        );
    }
    let known = ARROWS.len() + DEVELOPMENT.len();
    assert_eq!(
        ours.len(),
        known,
        "a crate without a place in this test: {ours:?}"
    );
}

/// Deliberate defects are for the simulator alone: who wants them says so on the command line.
#[test]
fn nobody_builds_on_sabotage() {
    for package in metadata().packages {
        let asks = package.dependencies.iter().flat_map(|dependency| {
            let asked = dependency.features.iter();
            asked
                .filter(|feature| *feature == "sabotage")
                .map(|_| dependency.name.clone())
        });
        assert_none(&format!("{} asks for sabotage", package.name), asks.collect());
        let carried = package.features.iter().filter(|(feature, carries)| {
            *feature != "sabotage" && carries.iter().any(|carried| carried.contains("sabotage"))
        });
        let carried = carried.map(|(feature, _)| feature.clone()).collect();
        assert_none(&format!("{} carries sabotage", package.name), carried);
    }
}

#[test]
fn libraries_stay_in_their_rooms() {
    let all = dependencies();
    for package in ["resp-codec", "sentinel-watcher", "proxy-core"] {
        let violations = all[package]
            .iter()
            .filter(|name| OF_THE_BINARY.contains(&name.as_str()));
        assert_none(
            &format!("{package} names what is the binary's"),
            violations.cloned().collect(),
        );
    }
    let violations = all["resp-codec"]
        .iter()
        .filter(|name| NOT_OF_THE_CODEC.contains(&name.as_str()));
    assert_none("the codec does no I/O", violations.cloned().collect());
}

#[test]
fn modules_of_the_core_name_only_what_is_below_them() {
    let mut seen = BTreeMap::<&str, usize>::new();
    for (name, text) in sources() {
        let Some(path) = name.strip_prefix("crates/proxy-core/src/") else {
            continue;
        };
        for (layer, forbidden) in LAYERS {
            if path == format!("{layer}.rs") || path.starts_with(&format!("{layer}/")) {
                *seen.entry(layer).or_default() += 1;
                assert_none(&format!("{name} names what is above it"), named(&text, forbidden));
            }
        }
    }
    assert_eq!(seen.len(), LAYERS.len(), "a layer has moved: {seen:?}");
}

/// Lines of code, comments aside, that name one of these modules or its type.
fn named(text: &str, modules: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
        if words
            .into_iter()
            .any(|word| modules.iter().any(|module| word.eq_ignore_ascii_case(module)))
        {
            found.push(format!("line {}: {}", number + 1, line.trim()));
        }
    }
    found
}

#[test]
fn files_are_short_enough_to_be_read() {
    let long = sources()
        .filter(|(name, _)| !GENERATED.contains(&name.as_str()))
        .filter_map(|(name, text)| {
            let is_of_tests = name.contains("/tests/") || name.ends_with("/tests.rs");
            let (lines, limit) = if is_of_tests {
                (text.lines().count(), LONGEST_FILE_OF_TESTS)
            } else {
                (lines_before_tests(&text), LONGEST_FILE)
            };
            (lines > limit).then(|| format!("{name}: {lines} lines, at most {limit}"))
        });
    assert_none("files are short", long.collect());
}

fn lines_before_tests(text: &str) -> usize {
    text.lines().take_while(|line| *line != "#[cfg(test)]").count()
}

#[test]
fn nothing_names_a_registrys_host_or_one_machines_paths() {
    let mut violations = Vec::new();
    for (name, path) in files() {
        // Cargo writes down where each crate came from.
        if name.ends_with("Cargo.lock") {
            continue;
        }
        let bytes = fs::read(path).unwrap();
        violations
            .extend(whereabouts(&String::from_utf8_lossy(&bytes)).map(|found| format!("{name}: {found}")));
    }
    assert_none("these mean nothing elsewhere", violations);
}

fn whereabouts(text: &str) -> impl Iterator<Item = &'static str> {
    NOWHERE.into_iter().filter(move |nowhere| text.contains(nowhere))
}

#[test]
fn every_crate_lives_by_the_workspaces_lints() {
    for (name, path) in files()
        .into_iter()
        .filter(|(name, _)| name.ends_with("Cargo.toml"))
    {
        let text = fs::read_to_string(path).unwrap();
        let is_apart = text.contains("[workspace]");
        assert!(
            is_apart || text.contains("[lints]\nworkspace = true"),
            "{name} has no lints"
        );
    }
}

#[test]
fn the_rules_see_what_they_forbid() {
    assert_eq!(
        named(
            "use crate::{limits, session};\n// session\nlet x = 1; // a Session",
            &["session"]
        )
        .len(),
        1
    );
    assert_eq!(
        named("fn f(s: &Session) {}\nstruct SessionKey;", &["session"]).len(),
        1
    );
    assert_eq!(whereabouts(concat!("see https://pypi", ".org/simple")).count(), 1);
    assert_eq!(whereabouts("target/servers").count(), 0);
    assert_eq!(lines_before_tests("a\nb\n#[cfg(test)]\nmod tests {}\n"), 2);
}
