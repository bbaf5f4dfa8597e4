//! Redis' own test suite, as an external client sees it: once straight to a node, once through slipring. What passes
//! the one way and not the other is printed.
//!
//! ```text
//!   tests/test_helper.tcl --host --port ──┬──> node                          each file with servers of its own
//!                                         └──> slipring ──> node <── sentinel
//! ```

mod verdicts;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use tempfile::TempDir;
use testkit::process::{Process, scratch};
use testkit::servers::{Server, target_folder};
use testkit::{Cluster, Flavor, Proxy};

use crate::tool::Tool;
use verdicts::Verdicts;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The unpacked source of Redis or Valkey, of the version that is tested; its folder `tests` is used
    #[arg(long, value_name = "DIR")]
    source: PathBuf,
    /// Only this file of it, as `unit/pubsub`; may be repeated
    #[arg(long, value_name = "FILE")]
    only: Vec<String>,
    /// Which server runs
    #[arg(long, value_name = "redis|valkey", default_value = "redis", value_parser = crate::flavor)]
    server: Flavor,
    /// A test that shows no progress for so long has failed, and the rest of its file is not run
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u32,
}

/// How the tests reach the node.
#[derive(Clone, Copy)]
enum Way {
    Direct,
    Through,
}

/// What runs the tests.
struct Judge<'a> {
    server: Server,
    options: &'a Options,
    /// A copy of the tests, beside links to the programs that they call.
    folder: TempDir,
}

/// What the suite's own servers are started with, as far as an external one can have it.
const NODE_CONFIG: [&str; 5] = [
    "notify-keyspace-events KEA",
    "latency-monitor-threshold 1",
    "save 900 1",
    "enable-protected-configs yes",
    "enable-module-command yes",
];

/// The longest file takes five minutes on a calm machine.
const FILE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Runs the suite both ways: whether all that passes directly passes through slipring, too.
///
/// # Errors
/// When a server, Tcl or the tests are missing.
pub(crate) fn run(options: &Options) -> Result<bool> {
    // The development build, whose assertions are on.
    let build = Tool::cargo(&["build", "--package", "slipring"]);
    ensure!(build.passes()?, "slipring does not build");
    let judge = Judge::new(options)?;
    let files = match &options.only[..] {
        [] => judge.files()?,
        only => only.to_vec(),
    };
    let (mut passed, mut failed) = (0, 0);
    for file in files {
        let direct = judge.verdicts(&file, Way::Direct)?;
        if direct.passed() == 0 {
            continue;
        }
        let through = judge.verdicts(&file, Way::Through)?;
        let differences = direct.not_passed_by(&through);
        println!(
            "{file:<32} direct {:>4}   through slipring {:>4}   differences {}",
            direct.passed(),
            through.passed(),
            differences.len()
        );
        differences.iter().for_each(|line| println!("    {line}"));
        passed += direct.passed();
        failed += differences.len();
    }
    ensure!(
        passed > 0,
        "no test passes directly: does another suite run here?"
    );
    println!("{passed} tests pass directly, {failed} of them not through slipring");
    Ok(failed == 0)
}

// === impl Judge ===

impl<'a> Judge<'a> {
    fn new(options: &'a Options) -> Result<Self> {
        let server = options.server.server()?;
        let folder = scratch("suite")?;
        let tests = options.source.join("tests");
        ensure!(
            tests.join("test_helper.tcl").is_file(),
            "{} holds no tests",
            tests.display()
        );
        let copy = Tool::new("cp", &["-R"]).args(&[&tests, &folder.path().join("tests")]);
        copy.output().context("the tests cannot be copied")?;
        let programs = folder.path().join("src");
        fs::create_dir(&programs)?;
        let cli = server.cli();
        symlink(
            &cli,
            programs.join(cli.file_name().context("redis-cli has no name")?),
        )?;
        Ok(Self {
            server,
            options,
            folder,
        })
    }

    /// All files of the suite.
    fn files(&self) -> Result<Vec<String>> {
        let listed = self.tclsh(&["--list-tests".to_owned()])?;
        Ok(listed.lines().map(str::to_owned).collect())
    }

    /// Runs one file on servers of its own.
    fn verdicts(&self, file: &str, way: Way) -> Result<Verdicts> {
        let mut cluster = Cluster::builder(self.server.flavor).nodes(1).sentinels(1);
        for line in NODE_CONFIG {
            cluster = cluster.node_config(line);
        }
        let cluster = cluster.start()?;
        let program = target_folder().join("debug").join("slipring");
        let (address, _proxy) = match way {
            Way::Direct => (cluster.shard().nodes[0].address(), None),
            Way::Through => {
                let proxy = Proxy::builder(program).sentinels(&cluster).start()?;
                (proxy.address(), Some(proxy))
            }
        };
        let args = [
            ("--host", address.ip().to_string()),
            ("--port", address.port().to_string()),
            ("--single", file.to_owned()),
            ("--clients", "1".to_owned()),
            ("--timeout", self.options.patience.to_string()),
        ];
        let mut line: Vec<String> = vec!["--durable".to_owned()];
        line.extend(
            args.into_iter()
                .flat_map(|(flag, value)| [flag.to_owned(), value]),
        );
        Ok(Verdicts::read(&self.tclsh(&line)?))
    }

    /// What the suite prints.
    fn tclsh(&self, args: &[String]) -> Result<String> {
        let folder = self.folder.path();
        let script = "cd \"$0\" && exec tclsh tests/test_helper.tcl \"$@\"".to_owned();
        let mut line = vec!["-c".to_owned(), script, folder.display().to_string()];
        line.extend_from_slice(args);
        let log = folder.join("log");
        // A test may have left a log of its own in the way.
        let _ = fs::remove_file(&log);
        let tests = Process::start("tclsh", "sh".as_ref(), line, log)?;
        // It fails where tests fail.
        let status = tests.wait(FILE_TIMEOUT)?;
        let printed = tests.log();
        match status.code() {
            Some(0 | 1) => Ok(printed),
            _ => Err(anyhow!("tclsh: {status}, its package is called tcl").context(tests.log_tail())),
        }
    }
}
